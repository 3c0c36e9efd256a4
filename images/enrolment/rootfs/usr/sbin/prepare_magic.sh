#!/bin/sh
# Makes the folder that nginx writes to; everything else belongs to root.
set -eu

install -d -o www-data -g www-data -m 0700 /run/enrolment
