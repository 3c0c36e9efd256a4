"""Runs inside the containers of the password tests. It plays a person whose change is cut short, clients that log in
all the time, a watcher that looks for passwords where none may be, and a person at a terminal.

It exchanges lines of JSON with the test, and injects its own faults: it wraps the clients of the code under test.
"""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, "/usr/lib/virtual-core")


def say(**message):
    os.write(1, (json.dumps(message) + "\n").encode())


def hear():
    """Read a line from the test, byte by byte, since a forked process goes on reading from there."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(0)
        line += byte
    return json.loads(line)


# --- changes that are cut short -------------------------------------------------------------------------------------


class Wrapped:
    """A client or journal whose steps are counted, and which fails as planned at one of them."""

    def __init__(self, name, inner, faults):
        self._name, self._inner, self._faults = name, inner, faults

    def __getattr__(self, attribute):
        real = getattr(self._inner, attribute)
        step = f"{self._name}.{attribute}"
        if not callable(real):
            return real

        def call(*arguments):
            self._faults.at("before", step)
            result = real(*arguments)
            self._faults.at("after", step)
            return result

        return call


class Faults:
    def __init__(self, planned):
        self.planned, self.armed, self.seen, self.steps = list(planned), False, {}, []
        self.lock = threading.Lock()

    def at(self, when, step):
        if not self.armed:
            return
        with self.lock:
            self.seen[when, step] = self.seen.get((when, step), 0) + 1
            self.steps.append([when, step])
            for fault in self.planned:
                if (fault["when"], fault["step"], fault.get("nth", 1)) == (when, step, self.seen[when, step]):
                    if fault["do"] == "kill":
                        os.kill(os.getpid(), signal.SIGKILL)
                    say(do=fault["do"])
                    hear()


class Typed:
    def __init__(self, current, new, faults):
        self.current, self.wanted, self.faults = current, new, faults

    def password(self, prompt):
        return self.current

    def new(self, prompt, check):
        if wrong := check(self.wanted):
            raise wrong
        self.faults.armed = True
        return self.wanted


def person(login, scheme, patience, faults):
    from vcore.passwords.change import Session, read_settings
    from vcore.passwords.journal import Journal
    from vcore.passwords.stores import Directory, Samba, person_dn

    site = read_settings()
    folder = Path("/tmp", f"state-{login}")
    folder.mkdir(exist_ok=True)
    directory = Directory(site["directory"], person_dn(login, site["suffix"]), patience=patience)
    samba = Samba(site["file_server"], login, patience=patience)
    journal = Journal(folder)
    session = Session(
        scheme, login, site["minimum"], Wrapped("directory", directory, faults), Wrapped("samba", samba, faults),
        Wrapped("journal", journal, faults), pause=0.3,
    )  # fmt: skip
    return session, directory, samba, journal


def outcome(session, typed):
    from vcore.passwords.stores import Stop

    try:
        return session.run(typed).outcome
    except Stop as stop:
        return stop.outcome


def quick_keys():
    """Make the journal's keys cost nothing, because it is opened and sealed hundreds of times here."""
    from vcore.passwords import journal as passwords_journal

    real = passwords_journal.hashlib.scrypt
    passwords_journal.hashlib.scrypt = lambda secret, **more: real(secret, **(more | {"n": 2}))


def faults(login, scheme, keys="quick"):
    if keys == "quick":
        quick_keys()
    while True:
        job = hear()
        old, new, patience = job["old"], job["new"], job.get("patience", 10)
        child = os.fork()
        if not child:
            planned = Faults(job["faults"])
            session, *_ = person(login, scheme, patience, planned)
            code = outcome(session, Typed(old, new, planned))
            if job.get("steps"):
                say(steps=planned.steps)
            os._exit(code)
        _, status = os.waitpid(child, 0)
        say(ended=os.waitstatus_to_exitcode(status))
        hear()
        session, directory, samba, journal = person(login, scheme, 10, Faults([]))
        interrupted = journal.exists()
        remembered = old if job["remembered"] == "old" else new
        recovered = outcome(session, Typed(remembered, new, Faults([])))
        state = {password: [directory.accepts(password), samba.accepts(password)] for password in (old, new)}
        say(recovered=recovered, interrupted=interrupted, state=state, journal=journal.exists())


# --- clients that log in all the time -------------------------------------------------------------------------------


def clients(login, current, changes):
    """Run 20 clients, half by LDAP and half by SMB, while the person changes the password again and again.

    A login that begins after a change was acknowledged, and ends before the next change begins, has to succeed with the
    new password and to fail with the earlier one.
    """
    _, directory, samba, _ = person(login, "ldapsam", 10, Faults([]))
    state = {"number": 0, "changing": True, "passwords": [current, current], "end": False}
    lock, logins, wrong, unsure = threading.Lock(), {"directory": 0, "samba": 0}, [], [0]

    def look():
        with lock:
            return state["number"], state["changing"], list(state["passwords"])

    def client(index):
        name, store = (("directory", directory), ("samba", samba))[index % 2]
        turn = index
        while not state["end"]:
            number, changing, (earlier, now) = look()
            turn += 1
            # Every third login uses the earlier password, once there is one.
            late = turn % 3 == 0 and earlier != now
            accepted = store.accepts(earlier if late else now)
            after, still, _ = look()
            if changing or still or after != number:
                unsure[0] += 1
                continue
            logins[name] += 1
            if accepted == late:
                wrong.append([name, "earlier" if late else "new", number])

    threads = [threading.Thread(target=client, args=(index,)) for index in range(20)]
    for thread in threads:
        thread.start()
    seconds = []
    try:
        for index in range(changes):
            new = f"Under-load-number-{index}"
            with lock:
                state["changing"] = True
            began = time.monotonic()
            if index % 3 == 2:
                line = f"{current}\n{new}\n{new}\n"
                configuration = "/usr/lib/virtual-core/salt/smb-client.conf"
                command = ["smbpasswd", "-c", configuration, "-s", "-r", "file-router", "-U", login]
                done = subprocess.run(command, input=line.encode(), capture_output=True)
                code = done.returncode
            else:
                # Only the step of the one store: the others of a run would be logins of the same kind as those of the
                # clients.
                directory.change(current, new)
                code = 0
            seconds.append(round(time.monotonic() - began, 3))
            if code:
                wrong.append(["change", code, index])
                break
            with lock:
                state.update(number=index + 1, changing=False, passwords=[current, new])
            current = new
            # Until enough logins of each kind have begun and ended between this change and the next one.
            target = {name: logins[name] + 6 for name in logins}
            deadline = time.monotonic() + 20
            while any(logins[name] < target[name] for name in logins) and time.monotonic() < deadline:
                time.sleep(0.02)
    finally:
        state["end"] = True
        for thread in threads:
            thread.join()
    say(logins=logins, wrong=wrong, unsure=unsure[0], seconds=seconds, current=current)


# --- somebody who watches -------------------------------------------------------------------------------------------


def watch(needles):
    """Report where these words appeared in arguments or environments of any process, until a line comes."""
    wanted = [needle.encode() for needle in json.loads(needles)]
    found, looks = set(), 0
    say(ready=True)
    while not select.select([0], [], [], 0)[0]:
        looks += 1
        for process in Path("/proc").iterdir():
            if not process.name.isdigit() or int(process.name) == os.getpid():
                continue
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    content = (process / name).read_bytes()
                    if any(needle in content for needle in wanted):
                        found.add(content.decode(errors="replace")[:80])
    say(found=sorted(found), looks=looks)


# --- a person at a terminal -----------------------------------------------------------------------------------------


def terminal(answers, patience, *command):
    """Answer each prompt, and an unexpected one with the end of input; with ``wait``, wait for a line first.

    Reports the screen, the exit code, and the seconds to the first prompt, from the last answer to the final sentence,
    from there to the end, and in total.
    """
    answers, began = json.loads(answers), time.monotonic()
    process, screen = pty.fork()
    if not process:
        os.execvp(command[0], command)
    text, prompted, answered, first, last, said = b"", 0, 0, None, None, None
    while True:
        try:
            data = os.read(screen, 4096)
        except OSError:
            break
        if not data:
            break
        text += data
        now = time.monotonic()
        if text.count(b": ") > prompted and text.endswith(b": "):
            prompted = text.count(b": ")
            first = first or now - began
            if answered < len(answers):
                os.write(screen, answers[answered].encode() + b"\n")
            else:
                if patience == "wait":
                    say(prompted=True)
                    hear()
                os.write(screen, b"\x04")
            answered += 1
            last = time.monotonic()
        elif last and text.rstrip().endswith(b"."):
            said = now - last
    _, status = os.waitpid(process, 0)
    end = time.monotonic()
    say(
        text=text.decode(errors="replace").replace("\r\n", "\n"),
        code=os.waitstatus_to_exitcode(status),
        prompt=round(first or 0, 3),
        said=round(said or 0, 3),
        ended=round(end - (last or end), 3),
        total=round(end - began, 3),
    )


if __name__ == "__main__":
    {
        "faults": faults,
        "clients": lambda login, current, changes: clients(login, current, int(changes)),
        "watch": watch,
        "terminal": terminal,
    }[sys.argv[1]](*sys.argv[2:])
