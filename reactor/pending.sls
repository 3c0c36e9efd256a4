#!py
# A key that is not accepted yet: one that came with a proof of a token of this core goes to the runner that looks at it.
# Anybody can send as many others as they like, so all of these end here, where that costs least.
from vcore import enrolment
from vcore.errors import NotFound
from vcore.paths import Paths
from vcore.secrets import Store


def run():
    grains = data.get("autosign_grains")
    proof = grains.get(enrolment.GRAIN) if isinstance(grains, dict) else None
    minion, key = data.get("id"), data.get("pub")
    if data.get("act") != "pend" or not enrolment.well_formed(minion, key, proof):
        return {}
    try:
        secret = Store(Paths.from_opts(__opts__).secrets).read(*enrolment.TOKEN_KEY)
    except NotFound:
        return {}  # no token was ever made
    if not enrolment.genuine(secret, proof, minion, key):
        return {}
    review = {"args": {"id": minion, "pub": key, "proof": proof, "code": grains.get(enrolment.CODE_GRAIN)}}
    return {"A proof is looked at": {"runner.vcore_enrolment.review": [review]}}
