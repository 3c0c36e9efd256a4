# shellcheck shell=bash
# Reads versions.yaml without a YAML parser, for scripts that run before one is installed.

# versions FILE SECTION: print the section's entries as name==version lines.
versions() {
    awk -v section="$2:" '
        /^[^ #]/ { inside = ($1 == section) }
        inside && /^  [^ #]/ { sub(":", "", $1); gsub("\"", "", $2); print $1 "==" $2 }' "$1"
}
