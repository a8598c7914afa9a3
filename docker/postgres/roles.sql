-- One role for each user of the database, each with its own databases and nothing else. The postgres image runs this once,
-- on an empty volume, as its superuser. Passwords come from the environment: a command line would show in `ps`.
\set ON_ERROR_STOP on
\getenv mlflow_password MLFLOW_DB_PASSWORD
\getenv study_password STUDY_DB_PASSWORD
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE ROLE optuna LOGIN PASSWORD :'study_password';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
CREATE DATABASE optuna OWNER optuna;
REVOKE CONNECT ON DATABASE postgres, mlflow, mlflow_auth, optuna FROM PUBLIC;
