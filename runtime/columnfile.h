/* columnfile.h - a table of results in HDF5, a data set per column, which pandas, Julia and h5dump
 * read as it is. The file appears whole or not at all. */
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
