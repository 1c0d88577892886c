# The last of the init scripts: an initialisation that got here is whole. Where one was cut short,
# the next start succeeds all the same; without this file it is known for what it is.
printf '{"complete": true}\n' >"$PGDATA/dev-stack.json"
chmod 600 "$PGDATA/dev-stack.json"
