/* `quern serve` over the fake model of tests/stub: same options, same HTTP, no arithmetic. Started by the
 * tests of this folder and by tests/bench/http_bench.sh; never shipped.
 *
 * Environment: STUB_STEP_US and STUB_ROW_US (how long steps take), STUB_ASCII=1 (letters only), STUB_EOG
 * (percent of tokens that end), STUB_FAIL (so many steps fail). */
#include <stdlib.h>
#include <unistd.h>

#include "server/cmd.h"
#include "tests/stub/stub_model.h"

static unsigned number(const char *name) {
    const char *s = getenv(name);
    return s ? (unsigned)strtoul(s, NULL, 10) : 0;
}

int main(int argc, char **argv) {
    atomic_store(&qn_stub.step_us, number("STUB_STEP_US"));
    atomic_store(&qn_stub.row_us, number("STUB_ROW_US"));
    atomic_store(&qn_stub.ascii, number("STUB_ASCII") != 0);
    atomic_store(&qn_stub.eog_percent, (int)number("STUB_EOG"));
    atomic_store(&qn_stub.fail_steps, (int)number("STUB_FAIL"));
    int code = qn_cmd_serve(argc, argv);
    if (code & QN_EXIT_NOW) _exit(code & 0xff);
    return code;
}
