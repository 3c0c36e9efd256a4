"""Messages: in English without a catalogue, in another language with one, and listed for translators."""

import os
import subprocess
import sys
from pathlib import Path

BRAIN = Path(__file__).parents[3] / "salt" / "_utils"
MESSAGE = "no node {node} below vcore.nodes"
PROGRAM = f"from vcore.base import messages; print(messages.tr({MESSAGE!r}, node='head'))"


def say(folder, **environment):
    program = (
        f"import gettext, pathlib; from vcore.base import messages\nmessages.FOLDER = pathlib.Path({str(folder)!r})\n"
    )
    program += "messages._catalogue = gettext.translation(messages.DOMAIN, messages.FOLDER, fallback=True)\n"
    command = [sys.executable, "-c", program + PROGRAM]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(BRAIN)} | environment
    )
    return done.stdout.strip()


def test_a_message_is_english_unless_there_is_a_translation(tmp_path):
    assert say(tmp_path, LANGUAGE="de") == "no node head below vcore.nodes"


def test_a_translation_has_the_values_where_its_language_wants_them(tmp_path):
    place = tmp_path / "de" / "LC_MESSAGES"
    place.mkdir(parents=True)
    source = tmp_path / "vcore.po"
    source.write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
        f'#, python-brace-format\nmsgid "{MESSAGE}"\nmsgstr "unter vcore.nodes fehlt {{node}}"\n'
    )
    subprocess.run(["msgfmt", "--check-format", "-o", place / "vcore.mo", source], check=True)
    assert say(tmp_path, LANGUAGE="de") == "unter vcore.nodes fehlt head"
    assert say(tmp_path, LANGUAGE="en") == "no node head below vcore.nodes"


def test_translators_find_the_messages_in_a_file_that_gettext_reads(tmp_path):
    template = BRAIN / "vcore" / "locale" / "vcore.pot"
    assert f'msgid "{MESSAGE}"' in template.read_text()
    subprocess.run(["msgfmt", "-o", tmp_path / "vcore.mo", template], check=True)
