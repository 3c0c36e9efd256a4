-- Run at each start. There is no password: the kernel confirms that whoever comes by the socket is the account slurm.
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS slurm@localhost IDENTIFIED VIA unix_socket;
GRANT ALL PRIVILEGES ON slurm_acct_db.* TO slurm@localhost;
