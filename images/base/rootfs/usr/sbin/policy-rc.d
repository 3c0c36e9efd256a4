#!/bin/sh
# No daemon is started by the installation of its package; supervisor does that.
exit 101
