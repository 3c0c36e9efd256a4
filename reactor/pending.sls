#!py
# A key that is not accepted yet: one that came with a proof goes to the runner that looks at it. Anybody can send as
# many of these as they like, so whatever is malformed ends here.
from vcore import enrolment


def run():
    grains = data.get("autosign_grains")
    proof = grains.get(enrolment.GRAIN) if isinstance(grains, dict) else None
    minion, key = data.get("id"), data.get("pub")
    if data.get("act") != "pend" or not enrolment.well_formed(minion, key, proof):
        return {}
    review = {"args": {"id": minion, "pub": key, "proof": proof}}
    return {"A proof is looked at": {"runner.vcore_enrolment.review": [review]}}
