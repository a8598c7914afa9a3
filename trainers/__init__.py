"""Knowledge-distillation trials: data, networks, methods and the training loops; knows no scheduler and no tracker."""
