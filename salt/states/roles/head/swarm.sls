# The swarm, with this host as its manager.
The swarm is initialised:
  vcore_swarm.initialised: []

The overlay network exists:
  vcore_swarm.network_present:
    - require:
      - vcore_swarm: The swarm is initialised

This host carries its placement labels:
  vcore_swarm.node_labelled:
    - require:
      - vcore_swarm: The swarm is initialised

The token that nodes join the swarm by is kept:
  vcore_swarm.join_token_kept:
    - require:
      - vcore_swarm: The swarm is initialised
