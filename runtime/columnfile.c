#include "runtime/columnfile.h"

#include "runtime/h5image.h"
#include "runtime/newfile.h"

#include <hdf5.h>
#include <stdbool.h>

static hid_t text_type(void)
{
    const hid_t type = H5Tcopy(H5T_C_S1);

    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

static bool write_column(hid_t file, int rows, const struct column *c)
{
    const hsize_t dim = (hsize_t)rows;
    const hid_t type = c->numbers != NULL ? H5Tcopy(H5T_NATIVE_DOUBLE) : text_type();
    const hid_t space = H5Screate_simple(1, &dim, NULL);
    const hid_t set = H5Dcreate2(file, c->name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    const void *data = c->numbers != NULL ? (const void *)c->numbers : (const void *)c->texts;
    bool done = set >= 0 && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;

    if (set >= 0)
        done = H5Dclose(set) >= 0 && done;
    H5Sclose(space);
    H5Tclose(type);
    return done;
}

static bool write_about(hid_t file, const char *about)
{
    const hid_t type = text_type(), space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(file, "about", type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool done = attribute >= 0 && H5Awrite(attribute, type, &about) >= 0;

    if (attribute >= 0)
        done = H5Aclose(attribute) >= 0 && done;
    H5Sclose(space);
    H5Tclose(type);
    return done;
}

status columnfile_write(const char *path, const char *about, int rows, const struct column *columns,
                        int count)
{
    struct h5image image = { 0 };
    struct newfile to = { 0 };
    bool done;
    status st;

    TRY_OUT(h5image_create(&image));
    done = write_about(image.file, about);
    for (int i = 0; i < count && done; i++)
        done = write_column(image.file, rows, &columns[i]);
    if (!done)
        TRY_OUT(fail(ST_MEMORY, "%s: no memory to write %d rows of results", path, rows));
    TRY_OUT(h5image_close(&image, path));
    TRY_OUT(newfile_open(&to, path));
    TRY_OUT(newfile_write(&to, image.bytes, image.filled));
    TRY_OUT(newfile_commit(&to));
out:
    newfile_drop(&to);
    h5image_done(&image);
    return st;
}
