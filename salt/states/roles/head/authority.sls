# The site's certificate authority, and this host's trust in it.
The certificate authority has a root:
  vcore_ca.root_present: []

This host trusts the certificate authority:
  vcore_ca.trusted:
    - require:
      - vcore_ca: The certificate authority has a root
