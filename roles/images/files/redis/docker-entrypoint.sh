#!/bin/sh
# Starts Redis the way the official redis:7 images do.
set -eu

# Options or a configuration file alone mean redis-server.
case ${1-} in
    -* | *.conf) set -- redis-server "$@" ;;
esac

if [ "${1-}" = redis-server ]; then
    if [ "$(id -u)" = 0 ]; then
        find . ! -user redis -exec chown redis:redis '{}' +
        exec setpriv --reuid=redis --regid=redis --init-groups -- "$0" "$@"
    fi

    # Data files are nobody else's business; a umask chosen on purpose stays.
    [ "$(umask)" != 0022 ] || umask 0077

    # The official image is compiled with protected mode off, Debian's is not.
    # A setting in the configuration file or among the arguments decides.
    shift
    config=
    case ${1-} in
        '' | -*) ;;
        *)
            config=$1
            shift
            ;;
    esac
    if [ -z "$config" ] || ! grep -qiE '^[[:space:]]*protected-mode[[:space:]]' "$config" 2> /dev/null; then
        case ${1-} in
            # These must come first, and end the program.
            -v | --version | -h | --help | --test-memory | -) ;;
            *) set -- --protected-mode no "$@" ;;
        esac
    fi
    set -- redis-server ${config:+"$config"} "$@"
fi

exec "$@"
