/* A run file, as --resume, --noise and --text read it. HDF5 is closed after each input: a file that
 * it could not open stays in its list of open files, and another one with the same inode would not
 * be read. */
#include "runtime/runfile.h"
#include "tests/fuzz/fuzz.h"

#include <hdf5.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct runfile f = { 0 };

    fuzz_ok(runfile_read(fuzz_file(data, size), &f));
    runfile_done(&f);
    H5close();
    return 0;
}
