#!/bin/sh
# Entrypoint of the image. It runs an app and passes signals on, but after exit status 78 (wrong configuration) it waits
# instead of ending, because a restart by Docker could not help. The container is then shown as unhealthy.
# A command in the background would read nothing from standard input.
exec 3<&0
"$@" <&3 3<&- &
app=$!
trap 'kill -TERM "$app" 2>/dev/null; stopped=1' TERM INT HUP
wait "$app"
status=$?
# A signal interrupts `wait` while the app drains.
while kill -0 "$app" 2>/dev/null; do
  wait "$app"
  status=$?
done
if [ "$status" = 78 ] && [ -z "$stopped" ]; then
  echo 'Wrong configuration: see the error above, fix it and recreate this container. Waiting to be stopped.' >&2
  trap 'kill "$pause"; exit 78' TERM INT HUP
  while :; do
    sleep 3600 &
    pause=$!
    wait "$pause"
  done
fi
exit "$status"
