/* h5image.h - an HDF5 file that is made in memory and then written by our own code.
 *
 * HDF5 itself would write small data sets when the file is closed: an error is then easily lost,
 * and it keeps a file open that it could not flush. */
#ifndef RUNTIME_H5IMAGE_H
#define RUNTIME_H5IMAGE_H

#include "runtime/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct h5image {
    int64_t file;        // of HDF5 (hid_t); 0: none is open
    void *bytes;         // of the file, after it was closed
    size_t size, filled; // of `bytes`, and its part that the file uses
};

/* Before any other call of HDF5: it prints nothing, and does nothing when the process exits. */
void h5_setup(void);

/* Creates an empty HDF5 file in memory; its objects are created with image->file. `image` must not
 * move until h5image_done. ST_MEMORY. */
status h5image_create(struct h5image *image);

/* Closes the file in memory, which gives its bytes. `path` is for the error line. ST_MEMORY. */
status h5image_close(struct h5image *image, const char *path);

void h5image_done(struct h5image *image); // accepts a zeroed value

#ifdef __cplusplus
}
#endif
#endif
