# A compute node: it trusts the core, so that it can pull images and reach the directory.
This host trusts the certificate authority:
  vcore_ca.trusted: []
