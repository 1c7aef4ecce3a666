#include "runtime/h5image.h"

#include <hdf5.h>
#include <stdlib.h>

#define GROW_BYTES (1 << 16) // by which the memory of a file grows

void h5_setup(void)
{
    H5dont_atexit(); // fails after the first call
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* HDF5's callbacks for the memory of a file. When it is closed its header is complete: the memory
 * becomes the image's. (H5Fget_file_image of HDF5 1.10 copies it with a wrong checksum.) */
static void *grow(void *bytes, size_t size, H5FD_file_image_op_t op, void *payload)
{
    struct h5image *image = payload;
    void *more = realloc(bytes, size);

    image->size = more != NULL ? size : image->size;
    return more;
}

static herr_t keep(void *bytes, H5FD_file_image_op_t op, void *payload)
{
    struct h5image *image = payload;

    image->bytes = bytes;
    return 0;
}

static void *same_payload(void *payload)
{
    return payload;
}

static herr_t free_nothing(void *payload)
{
    return 0;
}

status h5image_create(struct h5image *image)
{
    H5FD_file_image_callbacks_t calls = { .image_realloc = grow,
                                          .image_free = keep,
                                          .udata_copy = same_payload,
                                          .udata_free = free_nothing,
                                          .udata = image };
    hid_t access, file;

    h5_setup();
    *image = (struct h5image){ 0 };
    access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fapl_core(access, GROW_BYTES, 0);
    H5Pset_file_image_callbacks(access, &calls);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18); // with checksums in headers
    file = H5Fcreate("memory", H5F_ACC_TRUNC, H5P_DEFAULT, access);
    H5Pclose(access);
    if (file < 0)
        return fail(ST_MEMORY, "HDF5 cannot allocate memory for a file");
    image->file = file;
    return ST_OK;
}

status h5image_close(struct h5image *image, const char *path)
{
    const hid_t file = image->file;
    ssize_t filled = -1;

    if (H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0)
        filled = H5Fget_file_image(file, NULL, 0); // only the size
    image->file = 0;
    if (H5Fclose(file) < 0 || filled <= 0 || image->bytes == NULL || (size_t)filled > image->size)
        return fail(ST_MEMORY, "%s: cannot allocate memory for its contents", path);
    image->filled = (size_t)filled;
    return ST_OK;
}

void h5image_done(struct h5image *image)
{
    if (image->file > 0)
        H5Fclose(image->file);
    free(image->bytes);
    *image = (struct h5image){ 0 };
}
