#include "runtime/h5image.h"
#include "runtime/newfile.h"
#include "runtime/runfile_internal.h"

#include <assert.h>
#include <errno.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_MOST ((UINT64_C(1) << 32) - 1) // bytes, of HDF5

int64_t runfile_type(enum dtype dt)
{
    assert(dt == DT_F32 || dt == DT_I64 || dt == DT_U8);
    return dt == DT_F32 ? H5T_NATIVE_FLOAT : dt == DT_I64 ? H5T_NATIVE_INT64 : H5T_NATIVE_UINT8;
}

/* The system's reason, which HDF5 quotes in the line of its innermost function. */
static herr_t find_reason(unsigned n, const H5E_error2_t *error, void *payload)
{
    static const char label[] = "error message = '";
    char *reason = payload;
    const char *found = error->desc != NULL ? strstr(error->desc, label) : NULL;

    if (found != NULL && reason[0] == 0)
        snprintf(reason, 128, ": %.*s", (int)strcspn(found + strlen(label), "'"),
                 found + strlen(label));
    return 0;
}

status runfile_fail(status st, const char *path, const char *did, const char *object)
{
    char reason[128] = "";

    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, find_reason, reason);
    return fail(st, "%s: cannot %s %s%s", path, did, object, reason);
}

/* How an array of at least one axis is stored: in `rows` rows a chunk, each with a checksum. */
static hid_t checked_layout(int ndim, const hsize_t *dims, hsize_t rows)
{
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[TENSOR_AXES];

    memcpy(chunk, dims, sizeof(chunk));
    chunk[0] = rows;
    H5Pset_chunk(list, ndim, chunk);
    H5Pset_fletcher32(list);
    return list;
}

/* Creates a data set, and its groups. `rows`: in a chunk. */
static hid_t create_array(hid_t file, const char *name, struct tensor t, hsize_t rows)
{
    hsize_t dims[TENSOR_AXES] = { 0 };
    hid_t parents = H5Pcreate(H5P_LINK_CREATE), layout = H5P_DEFAULT, space, set;

    for (int i = 0; i < t.ndim; i++)
        dims[i] = (hsize_t)t.dim[i];
    H5Pset_create_intermediate_group(parents, 1);
    if (t.ndim > 0)
        layout = checked_layout(t.ndim, dims, rows);
    space = t.ndim > 0 ? H5Screate_simple(t.ndim, dims, NULL) : H5Screate(H5S_SCALAR);
    set = H5Dcreate2(file, name, runfile_type(t.dtype), space, parents, layout, H5P_DEFAULT);
    H5Sclose(space);
    if (t.ndim > 0)
        H5Pclose(layout);
    H5Pclose(parents);
    return set;
}

/* One chunk, as far as HDF5 allows. */
static bool write_array(hid_t file, const char *name, struct tensor t)
{
    const uint64_t bytes = tensor_bytes(t), parts = bytes / CHUNK_MOST + 1;
    const hsize_t rows = t.ndim > 0 ? ((uint64_t)t.dim[0] + parts - 1) / parts : 0;
    const hid_t set = create_array(file, name, t, rows);
    bool done = set >= 0;

    if (done)
        done = H5Dwrite(set, runfile_type(t.dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, t.data) >= 0;
    if (set >= 0)
        done = H5Dclose(set) >= 0 && done;
    return done;
}

/* Of fixed length: those of variable length are in a heap without checksums, see read_text. */
static bool write_text(hid_t file, const char *name, const char *text)
{
    const hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    hid_t attribute;
    bool done;

    H5Tset_size(type, strlen(text) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    done = attribute >= 0 && H5Awrite(attribute, type, text) >= 0;

    if (attribute >= 0)
        done = H5Aclose(attribute) >= 0 && done;
    H5Sclose(space);
    H5Tclose(type);
    return done;
}

/* Writes all arrays and texts. `st`: what an error is. */
static status write_all(hid_t file, const char *path, const struct runfile *f, status st)
{
    for (int i = 0; i < f->array_count; i++) {
        if (!write_array(file, f->arrays[i].name, f->arrays[i].value))
            return runfile_fail(st, path, "write", f->arrays[i].name);
    }
    for (int i = 0; i < f->text_count; i++) {
        if (!write_text(file, f->texts[i].name, f->texts[i].text))
            return runfile_fail(st, path, "write the attribute", f->texts[i].name);
    }
    return ST_OK;
}

/* Appends the digest of the whole file, read back, and gives the file its name. */
static status seal(struct newfile *to)
{
    const off_t bytes = lseek(to->fd, 0, SEEK_END);
    char digest[RUNFILE_DIGEST_BYTES], line[RUNFILE_SEAL_BYTES + 1];

    if (bytes < 0)
        return fail(status_of_errno(), "%s: %s", to->path, strerror(errno));
    TRY(runfile_digest(to->fd, bytes, to->path, digest));
    snprintf(line, sizeof(line), RUNFILE_SEAL "%s\n", digest);
    TRY(newfile_write(to, line, RUNFILE_SEAL_BYTES));
    return newfile_commit(to);
}

status runfile_write(const char *path, const struct runfile *f)
{
    struct h5image image = { 0 };
    struct newfile to = { 0 };
    status st;

    TRY_OUT(h5image_create(&image));
    TRY_OUT(write_all(image.file, path, f, ST_MEMORY));
    TRY_OUT(h5image_close(&image, path));
    TRY_OUT(newfile_open(&to, path));
    TRY_OUT(newfile_write(&to, image.bytes, image.filled));
    TRY_OUT(seal(&to));
out:
    newfile_drop(&to);
    h5image_done(&image);
    return st;
}

struct run_frames {
    struct newfile to;
    hid_t file, set;
    int64_t count, put, h, w;
};

/* Opens the temporary file, which this process has locked. */
static hid_t open_new(const char *path)
{
    hid_t access, file;

    h5_setup();
    access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, 0, 1);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
    file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    H5Pclose(access);
    return file;
}

status run_frames_open(struct run_frames **out, const char *path, int64_t count, int64_t h,
                       int64_t w)
{
    status st;
    struct run_frames *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return fail(ST_MEMORY, "%s: no memory for /frames", path);
    *f = (struct run_frames){ .file = -1, .set = -1, .count = count, .h = h, .w = w };
    TRY_OUT(newfile_open(&f->to, path));
    f->file = open_new(f->to.temp);
    if (f->file >= 0)
        f->set = create_array(f->file, "/frames", tensor_of(NULL, DT_U8, count, h, w, 3), 1);
    if (f->set < 0)
        TRY_OUT(runfile_fail(ST_IO, path, "write", "/frames"));
    *out = f;
out:
    if (st != ST_OK)
        run_frames_close(f);
    return st;
}

status run_frames_put(struct run_frames *f, const uint8_t *rgb, int64_t count)
{
    const hsize_t start[] = { (hsize_t)f->put, 0, 0, 0 };
    const hsize_t size[] = { (hsize_t)count, (hsize_t)f->h, (hsize_t)f->w, 3 };
    const hid_t to = H5Dget_space(f->set), from = H5Screate_simple(4, size, NULL);
    bool done = false;

    assert(f->put + count <= f->count);
    H5Sselect_hyperslab(to, H5S_SELECT_SET, start, NULL, size, NULL);
    done = H5Dwrite(f->set, H5T_NATIVE_UINT8, from, to, H5P_DEFAULT, rgb) >= 0;
    f->put += count;
    const status st = done ? ST_OK : runfile_fail(ST_IO, f->to.path, "write", "/frames");
    H5Sclose(from);
    H5Sclose(to);
    return st;
}

status run_frames_finish(struct run_frames *f, const struct runfile *state)
{
    const hid_t set = f->set, file = f->file;

    assert(f->put == f->count);
    TRY(write_all(file, f->to.path, state, ST_IO));
    f->set = f->file = -1; // closed below, also if that fails
    const bool done = H5Dclose(set) >= 0 && H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0;
    if (H5Fclose(file) < 0 || !done)
        return runfile_fail(ST_IO, f->to.path, "write", "the file");
    return seal(&f->to);
}

void run_frames_close(struct run_frames *f)
{
    if (f == NULL)
        return;
    if (f->set >= 0)
        H5Dclose(f->set);
    if (f->file >= 0)
        H5Fclose(f->file);
    newfile_drop(&f->to);
    free(f);
}
