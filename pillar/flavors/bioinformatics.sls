# Bioinformatics: sequencers write their runs to the file router.
vcore:
  services:
    file-router:
      settings:
        workgroup: GENOMICS
