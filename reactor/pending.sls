#!py
# A key that is not accepted yet: one that came with a proof of a token of this core goes to the runner that looks at it.
# Anybody can send as many others as they like, so all of these end here, where that costs least.
from vcore.enrolment import tokens
from vcore.base.errors import NotFound
from vcore.base.paths import Paths
from vcore.base.secrets import Store


def run():
    grains = data.get("autosign_grains")
    proof = grains.get(tokens.GRAIN) if isinstance(grains, dict) else None
    minion, key = data.get("id"), data.get("pub")
    if data.get("act") != "pend" or not tokens.well_formed(minion, key, proof):
        return {}
    try:
        secret = Store(Paths.from_opts(__opts__).secrets).read(*tokens.TOKEN_KEY)
    except NotFound:
        return {}  # no token was ever made
    if not tokens.genuine(secret, proof, minion, key):
        return {}
    review = {"args": {"id": minion, "pub": key, "proof": proof, "code": grains.get(tokens.CODE_GRAIN)}}
    return {"A proof is looked at": {"runner.vcore_enrolment.review": [review]}}
