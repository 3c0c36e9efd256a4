# Virtual Core's own pillar comes from the external pillar (salt/_pillar/vcore.py), which reads site.sls and gives each
# minion only its part. Pillar of your own goes here; site.sls must not be listed, or every minion would see all of it.
base: {}
