/* columnfile.h - a table of results in HDF5, one data set per column, which pandas, Julia and
 * h5dump can read. It is written under a temporary name and renamed when it is complete. */
#ifndef RUNTIME_COLUMNFILE_H
#define RUNTIME_COLUMNFILE_H

#include "runtime/status.h"

struct column {
    const char *name;         // of the data set
    const double *numbers;    // [rows]; or
    const char *const *texts; // [rows], UTF-8
};

/* `about` (JSON) becomes the attribute "about" of the file. ST_IO. */
status columnfile_write(const char *path, const char *about, int rows, const struct column *columns,
                        int count);

#endif
