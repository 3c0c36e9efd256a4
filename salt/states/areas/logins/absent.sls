Nobody of the core logs in on this machine:
  vcore_login.absent: []
