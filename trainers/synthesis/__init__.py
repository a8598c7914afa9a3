"""Where synthetic images come from: generators and the statistics they are matched to."""
