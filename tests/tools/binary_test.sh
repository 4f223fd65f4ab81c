#!/bin/sh
# The shipped binary: under 5 MB stripped, and it needs nothing but the C and C++ runtime libraries.
# Usage: binary_test.sh BINARY STRIP READELF
set -eu
binary=$1 strip=$2 readelf=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$strip" -o "$folder/stripped" "$binary"
size=$(wc -c < "$folder/stripped")
echo "stripped: $size bytes"
[ "$size" -lt 5000000 ] || { echo "FAIL: not under 5000000 bytes"; exit 1; }

needed=$("$readelf" -d "$binary" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p')
echo "needs: $(echo $needed)"
[ -n "$needed" ] || { echo "FAIL: no NEEDED entry found; is this a dynamic executable?"; exit 1; }
for library in $needed; do
  case $library in
    libc.so.* | libm.so.* | libstdc++.so.* | ld-linux*) ;;
    *) echo "FAIL: needs $library"; exit 1 ;;
  esac
done
