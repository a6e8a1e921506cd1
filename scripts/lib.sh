# Read by the scripts beside it, before they do anything: how each of them answers -h and --help, and refuses what it does not know.
# For any POSIX shell.

# Prints the comment at the head of the script.
usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0"; }

# Ends the script for a wrong call: one line, exit code 2.
refuse() { echo "${0##*/}: $* (try --help)" >&2; exit 2; }

# For the arguments of a script without flags.
no_flags() {
  for argument in "$@"; do
    case $argument in
      -h|--help) usage; exit 0 ;;
      -*) refuse "unknown flag $argument" ;;
    esac
  done
}
