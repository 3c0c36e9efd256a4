"""What a command in a container wrote, as Docker sends it."""

from vcore.host import containers


def test_docker_frames_become_one_output_and_the_stream_stays_its_owners(tmp_path):
    """With the stream closed under Docker's response, Python 3.13 would complain on administrators' terminals."""
    whole = tmp_path / "frames"
    whole.write_bytes(b"\1\0\0\0\0\0\0\3one" + b"\2\0\0\0\0\0\0\4 two")
    with whole.open("rb", buffering=0) as stream:
        assert list(containers._frames(stream)) == [(1, b"one"), (containers.STANDARD_ERROR, b" two")]
        assert not stream.closed
