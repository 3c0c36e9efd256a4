-- Run at each start. The password is the kernel's word: who comes by the socket as the account slurm is slurmdbd.
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS slurm@localhost IDENTIFIED VIA unix_socket;
GRANT ALL PRIVILEGES ON slurm_acct_db.* TO slurm@localhost;
