#!py
# Passes a waiting key that came with a proof of a token of this core to the runner that reviews it. Anybody can send
# any number of other keys, so these are ignored here, where that costs least.
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
        return {}  # no token has been made yet
    if not tokens.genuine(secret, proof, minion, key):
        return {}
    review = {"args": {"id": minion, "pub": key, "proof": proof, "code": grains.get(tokens.CODE_GRAIN)}}
    return {"A proof is looked at": {"runner.vcore_enrolment.review": [review]}}
