/* `quern serve` over the fake model of tests/stub: same options, same HTTP, no arithmetic. Started by the tests of
 * this folder and by tests/bench/http_bench.sh; never shipped. */
#include <unistd.h>

#include "server/cmd.h"

int main(int argc, char **argv) {
    int code = qn_cmd_serve(argc, argv);
    if (code & QN_EXIT_NOW) _exit(code & 0xff);
    return code;
}
