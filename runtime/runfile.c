#include "runtime/runfile.h"

#include "runtime/newfile.h"

#include <assert.h>
#include <errno.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFLATE_MOST 1032 // bytes that one compressed byte can stand for

static const char *const history_names[] = { "/solver/m0", "/solver/m1", "/solver/last" };

/* ---- HDF5's errors as our line ---- */

/* The system's reason, which HDF5 quotes in the line of its innermost function. */
static herr_t find_reason(unsigned n, const H5E_error2_t *error, void *payload)
{
    static const char mark[] = "error message = '";
    char *reason = payload;
    const char *found = error->desc != NULL ? strstr(error->desc, mark) : NULL;

    if (found != NULL && reason[0] == 0)
        snprintf(reason, 128, ": %.*s", (int)strcspn(found + strlen(mark), "'"),
                 found + strlen(mark));
    return 0;
}

static status h5_fail(status st, const char *path, const char *did, const char *object)
{
    char reason[128] = "";

    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, find_reason, reason);
    return fail(st, "%s: cannot %s %s%s", path, did, object, reason);
}

/* How files are opened: HDF5's stack silenced, no lock files (Lustre and NFS may lack them; what we
 * write has a name that nobody else opens), and nothing left open behind H5Fclose. */
static hid_t access_list(void)
{
    const hid_t list = H5Pcreate(H5P_FILE_ACCESS);

    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5Pset_file_locking(list, 0, 1);
    H5Pset_fclose_degree(list, H5F_CLOSE_STRONG);
    return list;
}

static status close_file(hid_t *file, const char *path)
{
    const hid_t closing = *file;

    *file = -1;
    return H5Fclose(closing) < 0 ? h5_fail(ST_IO, path, "write", "the file") : ST_OK;
}

/* ---- writing ---- */

static status write_data(hid_t file, const char *path, const char *name, hid_t type, int ndim,
                         const int64_t *dim, const void *data)
{
    hsize_t dims[4] = { 0 };
    hid_t parents = H5Pcreate(H5P_LINK_CREATE), space = -1, set = -1;
    bool done = false;

    assert(ndim <= 4);
    for (int i = 0; i < ndim; i++)
        dims[i] = (hsize_t)dim[i];
    H5Pset_create_intermediate_group(parents, 1);
    space = ndim > 0 ? H5Screate_simple(ndim, dims, NULL) : H5Screate(H5S_SCALAR);
    set = H5Dcreate2(file, name, type, space, parents, H5P_DEFAULT, H5P_DEFAULT);
    done =
        set >= 0 && (data == NULL || H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    const status st = done ? ST_OK : h5_fail(ST_IO, path, "write", name);
    if (set >= 0)
        H5Dclose(set);
    H5Sclose(space);
    H5Pclose(parents);
    return st;
}

static status write_array(hid_t file, const char *path, const char *name, const struct run_array *a)
{
    if (a->ndim == 0)
        return ST_OK;
    return write_data(file, path, name, H5T_NATIVE_FLOAT, a->ndim, a->dim, a->data);
}

static hid_t text_type(void)
{
    const hid_t type = H5Tcopy(H5T_C_S1);

    H5Tset_size(type, H5T_VARIABLE); // kept in the file's heap: a header holds 64 KB at most
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

static status write_text(hid_t file, const char *path, const char *name, const char *text)
{
    status st = ST_OK;
    hid_t type, space, attribute = -1;

    if (text == NULL)
        return ST_OK;
    type = text_type();
    space = H5Screate(H5S_SCALAR);
    if (H5Aexists(file, name) > 0)
        H5Adelete(file, name);
    attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, type, &text) < 0)
        st = h5_fail(ST_IO, path, "write the attribute", name);
    if (attribute >= 0)
        H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
    return st;
}

status runfile_write(const char *path, const struct runfile *r)
{
    status st;
    struct newfile to = { 0 };
    const hid_t access = access_list();
    hid_t file = -1;

    TRY_OUT(newfile_open(&to, path));
    file = H5Fcreate(to.temp, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    if (file < 0) {
        st = h5_fail(ST_IO, path, "create", "the file");
        goto out;
    }
    TRY_OUT(write_array(file, path, "/noise", &r->noise));
    TRY_OUT(write_array(file, path, "/latents", &r->latents));
    TRY_OUT(write_data(file, path, "/step", H5T_NATIVE_INT64, 0, NULL, &r->step));
    for (size_t i = 0; i < COUNT(history_names); i++)
        TRY_OUT(write_array(file, path, history_names[i], &r->history[i]));
    TRY_OUT(write_data(file, path, "/solver/order", H5T_NATIVE_INT64, 0, NULL, &r->order));
    TRY_OUT(write_array(file, path, "/text/cond", &r->cond));
    TRY_OUT(write_array(file, path, "/text/uncond", &r->uncond));
    TRY_OUT(write_text(file, path, "request", r->request));
    TRY_OUT(write_text(file, path, "plan", r->plan));
    TRY_OUT(write_text(file, path, "version", r->version));
    TRY_OUT(write_text(file, path, "timings", r->timings));
    TRY_OUT(close_file(&file, path));
    TRY_OUT(newfile_commit(&to));
out:
    if (file >= 0)
        H5Fclose(file);
    H5Pclose(access);
    newfile_drop(&to);
    return st;
}

/* ---- reading ---- */

/* Whether the link and what it points at are there. */
static bool exists(hid_t file, const char *name)
{
    char group[32] = "";
    const char *slash = strrchr(name, '/');

    if (slash != name) {
        snprintf(group, sizeof(group), "%.*s", (int)(slash - name), name);
        if (H5Lexists(file, group, H5P_DEFAULT) <= 0)
            return false;
    }
    return H5Lexists(file, name, H5P_DEFAULT) > 0;
}

/* Opens a data set of `ndim` axes and numbers of class `type_class`, and checks that the file has
 * the bytes that its shape promises. The caller closes *set. */
static status open_data(hid_t file, const char *path, const char *name, H5T_class_t type_class,
                        int ndim, hid_t *set, int64_t *dim)
{
    status st = ST_OK;
    hsize_t dims[4] = { 0 };
    hid_t type = -1, space = -1, list = -1;
    uint64_t bytes = 0, stored = 0;

    *set = H5Dopen2(file, name, H5P_DEFAULT);
    if (*set < 0)
        return h5_fail(ST_FORMAT, path, "open", name);
    type = H5Dget_type(*set);
    space = H5Dget_space(*set);
    list = H5Dget_create_plist(*set);
    if (H5Tget_class(type) != type_class || H5Tget_size(type) > 8) {
        st = fail(ST_FORMAT, "%s: %s holds no %s", path, name,
                  type_class == H5T_FLOAT ? "floats" : "integers");
        goto out;
    }
    if (H5Sget_simple_extent_ndims(space) != ndim) {
        st = fail(ST_FORMAT, "%s: %s has %d axes; %d were expected", path, name,
                  H5Sget_simple_extent_ndims(space), ndim);
        goto out;
    }
    H5Sget_simple_extent_dims(space, dims, NULL);
    bytes = H5Tget_size(type);
    for (int i = 0; i < ndim; i++) {
        if (dims[i] < 1 || dims[i] > (UINT64_C(1) << 40) / bytes) {
            st = fail(ST_FORMAT, "%s: %s: axis %d has %llu elements", path, name, i,
                      (unsigned long long)dims[i]);
            goto out;
        }
        bytes *= dims[i];
        dim[i] = (int64_t)dims[i];
    }
    stored = H5Dget_storage_size(*set);
    if (H5Pget_nfilters(list) > 0 ? bytes / DEFLATE_MOST > stored : bytes != stored)
        st = fail(ST_FORMAT, "%s: %s needs %llu bytes and the file holds %llu of it", path, name,
                  (unsigned long long)bytes, (unsigned long long)stored);
out:
    H5Tclose(type);
    H5Sclose(space);
    H5Pclose(list);
    if (st != ST_OK) {
        H5Dclose(*set);
        *set = -1;
    }
    return st;
}

static status read_array(hid_t file, const char *path, const char *name, int ndim,
                         struct run_array *a)
{
    status st = ST_OK;
    hid_t set = -1;
    int64_t dim[4] = { 0 };
    size_t count = 1;
    float *data = NULL;

    if (!exists(file, name))
        return ST_OK;
    TRY(open_data(file, path, name, H5T_FLOAT, ndim, &set, dim));
    for (int i = 0; i < ndim; i++)
        count *= (size_t)dim[i];
    data = malloc(count * sizeof(*data));
    if (data == NULL) {
        st = fail(ST_MEMORY, "%s: no memory for %s, %zu floats", path, name, count);
        goto out;
    }
    if (H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
        st = h5_fail(ST_FORMAT, path, "read", name);
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(data[i])) {
            st = fail(ST_FORMAT, "%s: %s: value %zu is not finite", path, name, i);
            goto out;
        }
    }
    *a = (struct run_array){ .ndim = ndim, .data = data };
    memcpy(a->dim, dim, sizeof(dim));
    data = NULL;
out:
    free(data);
    H5Dclose(set);
    return st;
}

static status read_number(hid_t file, const char *path, const char *name, int64_t *value)
{
    status st = ST_OK;
    hid_t set = -1;

    if (!exists(file, name))
        return ST_OK;
    TRY(open_data(file, path, name, H5T_INTEGER, 0, &set, NULL));
    if (H5Dread(set, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, value) < 0)
        st = h5_fail(ST_FORMAT, path, "read", name);
    else if (*value < 0)
        st = fail(ST_FORMAT, "%s: %s is %lld", path, name, (long long)*value);
    H5Dclose(set);
    return st;
}

/* Text of variable length, as we write it, or of a fixed one, as others may. */
static status read_text(hid_t file, const char *path, const char *name, char **text)
{
    status st = ST_OK;
    hid_t attribute = -1, type = -1, space = -1, memory = text_type();
    char *got = NULL;

    if (H5Aexists(file, name) <= 0)
        goto out;
    attribute = H5Aopen(file, name, H5P_DEFAULT);
    type = attribute < 0 ? -1 : H5Aget_type(attribute);
    space = attribute < 0 ? -1 : H5Aget_space(attribute);
    if (type < 0 || space < 0 || H5Tget_class(type) != H5T_STRING ||
        H5Sget_simple_extent_npoints(space) != 1) {
        st = fail(ST_FORMAT, "%s: the attribute %s is no text", path, name);
        goto out;
    }
    if (H5Tis_variable_str(type) > 0) {
        H5Tset_cset(memory, H5Tget_cset(type));
        if (H5Aread(attribute, memory, &got) < 0 || got == NULL) {
            st = h5_fail(ST_FORMAT, path, "read the attribute", name);
            goto out;
        }
        *text = strdup(got);
        H5free_memory(got);
    } else {
        const size_t bytes = H5Tget_size(type); // at most 64 KB: it lies in a header
        *text = calloc(1, bytes + 1);
        if (*text != NULL && H5Aread(attribute, type, *text) < 0)
            st = h5_fail(ST_FORMAT, path, "read the attribute", name);
    }
    if (*text == NULL)
        st = fail(ST_MEMORY, "%s: no memory for the attribute %s", path, name);
out:
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (attribute >= 0)
        H5Aclose(attribute);
    H5Tclose(memory);
    return st;
}

static status same_shape(const char *path, const char *name, const struct run_array *a,
                         const struct run_array *want)
{
    if (a->ndim == 0 || want->ndim == 0 || memcmp(a->dim, want->dim, sizeof(a->dim)) == 0)
        return ST_OK;
    return fail(ST_FORMAT, "%s: %s is %lld x %lld x %lld x %lld, not as the latent beside it", path,
                name, (long long)a->dim[0], (long long)a->dim[1], (long long)a->dim[2],
                (long long)a->dim[3]);
}

static status check_shapes(const char *path, const struct runfile *r)
{
    const struct run_array *latent = r->latents.ndim != 0 ? &r->latents : &r->noise;

    TRY(same_shape(path, "/noise", &r->noise, latent));
    for (size_t i = 0; i < COUNT(history_names); i++)
        TRY(same_shape(path, history_names[i], &r->history[i], latent));
    if (r->cond.ndim != 0 && r->uncond.ndim != 0 && r->cond.dim[1] != r->uncond.dim[1])
        return fail(ST_FORMAT, "%s: /text/cond and /text/uncond have rows of %lld and %lld", path,
                    (long long)r->cond.dim[1], (long long)r->uncond.dim[1]);
    return ST_OK;
}

/* `told` is the name for error lines. */
static status open_file(const char *path, const char *told, unsigned how, hid_t *file)
{
    const hid_t access = access_list();
    FILE *f = fopen(path, "rb"); // for the system's own word on what is wrong
    status st = ST_OK;

    if (f == NULL) {
        st = fail(ST_IO, "%s: %s", told, strerror(errno));
        goto out;
    }
    fclose(f);
    *file = H5Fopen(path, how, access);
    if (*file < 0)
        st = fail(ST_FORMAT, "%s: no HDF5 file, or one that was cut", told);
out:
    H5Pclose(access);
    return st;
}

status runfile_read(const char *path, struct runfile *out)
{
    status st;
    struct runfile r = { 0 };
    hid_t file = -1;

    TRY_OUT(open_file(path, path, H5F_ACC_RDONLY, &file));
    TRY_OUT(read_array(file, path, "/noise", 4, &r.noise));
    TRY_OUT(read_array(file, path, "/latents", 4, &r.latents));
    TRY_OUT(read_number(file, path, "/step", &r.step));
    for (size_t i = 0; i < COUNT(history_names); i++)
        TRY_OUT(read_array(file, path, history_names[i], 4, &r.history[i]));
    TRY_OUT(read_number(file, path, "/solver/order", &r.order));
    TRY_OUT(read_array(file, path, "/text/cond", 2, &r.cond));
    TRY_OUT(read_array(file, path, "/text/uncond", 2, &r.uncond));
    TRY_OUT(read_text(file, path, "request", &r.request));
    TRY_OUT(read_text(file, path, "plan", &r.plan));
    TRY_OUT(read_text(file, path, "version", &r.version));
    TRY_OUT(read_text(file, path, "timings", &r.timings));
    TRY_OUT(check_shapes(path, &r));
    *out = r;
out:
    if (file >= 0)
        H5Fclose(file);
    if (st != ST_OK)
        runfile_done(&r);
    return st;
}

void runfile_done(struct runfile *r)
{
    free(r->noise.data);
    free(r->latents.data);
    for (size_t i = 0; i < COUNT(r->history); i++)
        free(r->history[i].data);
    free(r->cond.data);
    free(r->uncond.data);
    free(r->request);
    free(r->plan);
    free(r->version);
    free(r->timings);
    *r = (struct runfile){ 0 };
}

/* ---- changing: always a copy, so that no fault costs what was there ---- */

static status copy_bytes(const char *from, const char *to)
{
    static const size_t block = 1 << 20;
    status st = ST_OK;
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    char *buffer = malloc(block);
    size_t got = 0;

    if (in == NULL || out == NULL || buffer == NULL) {
        st = fail(ST_IO, "%s: %s", from, strerror(errno));
        goto out;
    }
    while ((got = fread(buffer, 1, block, in)) > 0) {
        if (fwrite(buffer, 1, got, out) != got)
            break;
    }
    if (ferror(in) || ferror(out))
        st = fail(ST_IO, "%s: cannot copy: %s", from, strerror(errno));
out:
    if (in != NULL)
        fclose(in);
    if (out != NULL && fclose(out) != 0 && st == ST_OK)
        st = fail(ST_IO, "%s: cannot copy: %s", from, strerror(errno));
    free(buffer);
    return st;
}

status runfile_set_timings(const char *path, const char *timings)
{
    status st;
    struct newfile to = { 0 };
    hid_t file = -1;

    TRY_OUT(newfile_open(&to, path));
    TRY_OUT(copy_bytes(path, to.temp));
    TRY_OUT(open_file(to.temp, path, H5F_ACC_RDWR, &file));
    TRY_OUT(write_text(file, path, "timings", timings));
    TRY_OUT(close_file(&file, path));
    TRY_OUT(newfile_commit(&to));
out:
    if (file >= 0)
        H5Fclose(file);
    newfile_drop(&to);
    return st;
}

struct run_frames {
    struct newfile to;
    hid_t file, set;
    int64_t count, put, h, w;
};

status run_frames_open(struct run_frames **out, const char *path, int64_t count, int64_t h,
                       int64_t w)
{
    status st;
    struct run_frames *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return fail(ST_MEMORY, "%s: no memory for /frames", path);
    *f = (struct run_frames){ .file = -1, .set = -1, .count = count, .h = h, .w = w };
    TRY_OUT(newfile_open(&f->to, path));
    TRY_OUT(copy_bytes(path, f->to.temp));
    TRY_OUT(open_file(f->to.temp, path, H5F_ACC_RDWR, &f->file));
    if (exists(f->file, "/frames"))
        H5Ldelete(f->file, "/frames", H5P_DEFAULT);
    TRY_OUT(write_data(f->file, path, "/frames", H5T_NATIVE_UINT8, 4, (int64_t[]){ count, h, w, 3 },
                       NULL));
    f->set = H5Dopen2(f->file, "/frames", H5P_DEFAULT);
    if (f->set < 0) {
        st = h5_fail(ST_IO, path, "write", "/frames");
        goto out;
    }
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
    const status st = done ? ST_OK : h5_fail(ST_IO, f->to.path, "write", "/frames");
    H5Sclose(from);
    H5Sclose(to);
    return st;
}

status run_frames_finish(struct run_frames *f)
{
    assert(f->put == f->count);
    H5Dclose(f->set);
    f->set = -1;
    TRY(close_file(&f->file, f->to.path));
    return newfile_commit(&f->to);
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
