#include "runtime/h5image.h"
#include "runtime/runfile_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFLATE_MOST 1032 // bytes that one compressed byte can stand for
#define OBJECTS_MAX 1024  // of a file: groups and arrays, and as many attributes
#define DEPTH_MAX 4       // groups inside groups

/* One reading, with what it may still take: a small file cannot ask for much. */
struct reading {
    const char *path;
    struct runfile *file;
    int objects, attributes;
    hsize_t size, left; // bytes of the file, and those that no array claims yet
    status st;
};

/* The shape and the kind of a data set: F32 and I64 are read, others are listed only. */
static struct tensor describe(hid_t type, hid_t space)
{
    const H5T_class_t kind = H5Tget_class(type);
    const int ndim = H5Sget_simple_extent_ndims(space);
    hsize_t dims[TENSOR_AXES] = { 0 };
    int64_t dim[TENSOR_AXES] = { 0 };
    enum dtype dt = DT_NONE;

    if (H5Sget_simple_extent_type(space) == H5S_NULL || ndim < 0 || ndim > TENSOR_AXES)
        return (struct tensor){ 0 };
    H5Sget_simple_extent_dims(space, dims, NULL);
    for (int i = 0; i < ndim; i++)
        dim[i] = dims[i] <= INT64_MAX ? (int64_t)dims[i] : INT64_MAX;
    if (H5Tget_size(type) <= 8) {
        if (kind == H5T_FLOAT)
            dt = DT_F32;
        else if (kind == H5T_INTEGER)
            dt = H5Tget_size(type) == 1 && ndim > 0 ? DT_U8 : DT_I64;
    }
    // no strides yet: the sizes are not checked, and their product may overflow
    struct tensor t = { .dtype = dt, .ndim = ndim };
    memcpy(t.dim, dim, sizeof(dim));
    return t;
}

/* Refuses data in other files, before a call that would open these. */
static status check_inside(struct reading *r, const char *name, hid_t set)
{
    const hid_t list = H5Dget_create_plist(set);
    const bool outside = H5Pget_layout(list) == H5D_VIRTUAL || H5Pget_external_count(list) > 0;

    H5Pclose(list);
    return outside ? fail(ST_FORMAT, "%s: %s is stored in another file", r->path, name) : ST_OK;
}

/* Checks that the file has the bytes that the shape promises, and takes them from what is left. */
static status claim(struct reading *r, const char *name, hid_t set, hid_t type, struct tensor t)
{
    const hid_t list = H5Dget_create_plist(set);
    const bool filtered = H5Pget_nfilters(list) > 0;
    const uint64_t stored = H5Dget_storage_size(set);
    uint64_t bytes = H5Tget_size(type);

    H5Pclose(list);
    for (int i = 0; i < t.ndim; i++) {
        if (t.dim[i] < 1 || (uint64_t)t.dim[i] > (UINT64_C(1) << 40) / bytes)
            return fail(ST_FORMAT, "%s: %s: axis %d has %lld elements", r->path, name, i,
                        (long long)t.dim[i]);
        bytes *= (uint64_t)t.dim[i];
    }
    if ((filtered ? bytes / DEFLATE_MOST : bytes) > stored)
        return fail(ST_FORMAT, "%s: %s needs %llu bytes and the file holds %llu of it", r->path,
                    name, (unsigned long long)bytes, (unsigned long long)stored);
    if (stored > r->left)
        return fail(ST_FORMAT, "%s: its arrays up to %s need more bytes than the file has", r->path,
                    name);
    r->left -= stored;
    return ST_OK;
}

static status read_values(struct reading *r, const char *name, hid_t set, struct tensor *t)
{
    const size_t count = (size_t)tensor_count(*t);
    void *data = malloc(tensor_bytes(*t));
    status st = ST_OK;

    if (data == NULL)
        return fail(ST_MEMORY, "%s: no memory for %s, %s", r->path, name, tensor_text(*t));
    if (H5Dread(set, runfile_type(t->dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
        st = runfile_fail(ST_FORMAT, r->path, "read", name);
        goto out;
    }
    for (size_t i = 0; t->dtype == DT_F32 && i < count; i++) {
        if (!isfinite(((const float *)data)[i])) {
            st = fail(ST_FORMAT, "%s: %s: value %zu is not finite", r->path, name, i);
            goto out;
        }
    }
    t->data = data;
out:
    if (st != ST_OK)
        free(data);
    return st;
}

static status read_array(struct reading *r, const char *name, hid_t set)
{
    hid_t type = -1, space = -1;
    struct tensor t = { 0 };
    status st;

    TRY_OUT(check_inside(r, name, set));
    type = H5Dget_type(set);
    space = H5Dget_space(set);
    t = describe(type, space);
    if (t.dtype == DT_F32 || t.dtype == DT_I64) {
        TRY_OUT(claim(r, name, set, type, t));
        t = tensor_dims(NULL, t.dtype, t.ndim, t.dim);
        TRY_OUT(read_values(r, name, set, &t));
    }
    TRY_OUT(runfile_add(r->file, name, t));
    r->file->arrays[r->file->array_count - 1].memory = t.data;
    t.data = NULL;
out:
    free(t.data);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    return st;
}

static status read_group(struct reading *r, const char *prefix, hid_t group, int depth);

/* Link `i` of a group whose name is `prefix`, "" for the root. */
static status read_link(struct reading *r, const char *prefix, hid_t group, hsize_t i, int depth)
{
    char part[RUNFILE_NAME_BYTES], name[RUNFILE_NAME_BYTES];
    H5L_info_t link;
    ssize_t length;
    hid_t object;
    status st = ST_OK;

    length = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, part, sizeof(part),
                                H5P_DEFAULT);
    if (length < 0 ||
        H5Lget_info_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, &link, H5P_DEFAULT) < 0)
        return runfile_fail(ST_FORMAT, r->path, "list", "its objects");
    if (length >= (ssize_t)sizeof(part) || !runfile_plain_name(part) ||
        snprintf(name, sizeof(name), "%s/%s", prefix, part) >= (int)sizeof(name))
        return ST_OK;
    if (link.type != H5L_TYPE_HARD)
        return fail(ST_FORMAT, "%s: %s is a link to another place; only what is here is read",
                    r->path, name);
    object = H5Oopen(group, part, H5P_DEFAULT);
    if (object < 0)
        return runfile_fail(ST_FORMAT, r->path, "open", name);
    if (H5Iget_type(object) == H5I_GROUP)
        st = read_group(r, name, object, depth + 1);
    else if (H5Iget_type(object) == H5I_DATASET)
        st = read_array(r, name, object);
    H5Oclose(object);
    return st;
}

static status read_group(struct reading *r, const char *prefix, hid_t group, int depth)
{
    H5G_info_t info;

    if (H5Gget_info(group, &info) < 0)
        return runfile_fail(ST_FORMAT, r->path, "list", "its objects");
    if (depth > DEPTH_MAX)
        return fail(ST_FORMAT, "%s: %s: at most %d groups inside each other are read", r->path,
                    prefix, DEPTH_MAX);
    if (info.nlinks > (hsize_t)(OBJECTS_MAX - r->objects))
        return fail(ST_FORMAT, "%s: at most %d arrays and groups are read, it has more", r->path,
                    OBJECTS_MAX);
    r->objects += (int)info.nlinks;
    for (hsize_t i = 0; i < info.nlinks; i++)
        TRY(read_link(r, prefix, group, i, depth));
    return ST_OK;
}

/* Texts of variable length are skipped: damage to the heap that holds them crashes HDF5. */
static status read_text(struct reading *r, const char *name, hid_t attribute)
{
    const hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    char *text = NULL;
    size_t bytes;
    status st = ST_OK;

    if (type < 0 || space < 0 || H5Tget_class(type) != H5T_STRING ||
        H5Tis_variable_str(type) != 0 || H5Sget_simple_extent_npoints(space) != 1)
        goto out;
    bytes = H5Tget_size(type);
    if (bytes > r->size)
        TRY_OUT(fail(ST_FORMAT, "%s: the attribute %s has %zu bytes, more than the file", r->path,
                     name, bytes));
    text = calloc(1, bytes + 1);
    if (text == NULL)
        TRY_OUT(fail(ST_MEMORY, "%s: no memory for the attribute %s", r->path, name));
    if (H5Aread(attribute, type, text) < 0)
        TRY_OUT(runfile_fail(ST_FORMAT, r->path, "read the attribute", name));
    TRY_OUT(runfile_add_text(r->file, name, text));
out:
    free(text);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    return st;
}

/* HDF5's callback for each attribute; other than 0 stops it. */
static herr_t each_attribute(hid_t file, const char *name, const H5A_info_t *info, void *payload)
{
    struct reading *r = payload;
    hid_t attribute;

    if (r->attributes++ == OBJECTS_MAX) {
        r->st = fail(ST_FORMAT, "%s: at most %d attributes are read, it has more", r->path,
                     OBJECTS_MAX);
        return 1;
    }
    if (!runfile_plain_name(name))
        return 0;
    attribute = H5Aopen(file, name, H5P_DEFAULT);
    if (attribute < 0) {
        r->st = runfile_fail(ST_FORMAT, r->path, "read the attribute", name);
        return 1;
    }
    r->st = read_text(r, name, attribute);
    H5Aclose(attribute);
    return r->st != ST_OK;
}

/* Opens a file and checks its digest, if it has one. */
static status check_file(const char *path, int *fd, struct runfile *f)
{
    char line[RUNFILE_SEAL_BYTES + 1] = "";
    struct stat there;
    int64_t bytes;

    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // does not wait for a FIFO
    if (*fd < 0 || fstat(*fd, &there) != 0)
        return fail(status_of_errno(), "%s: %s", path, strerror(errno));
    if (!S_ISREG(there.st_mode))
        return fail(ST_IO, "%s: is no regular file", path);
    bytes = there.st_size - RUNFILE_SEAL_BYTES;
    f->verified = bytes > 0 && pread(*fd, line, RUNFILE_SEAL_BYTES, bytes) == RUNFILE_SEAL_BYTES &&
                  memcmp(line, RUNFILE_SEAL, strlen(RUNFILE_SEAL)) == 0;
    TRY(runfile_digest(*fd, f->verified ? bytes : there.st_size, path, f->digest));
    if (f->verified && memcmp(line + strlen(RUNFILE_SEAL), f->digest, strlen(f->digest)) != 0)
        return fail(ST_FORMAT,
                    "%s: is damaged: its SHA-256 is not the one that was written at its end", path);
    return ST_OK;
}

static status open_file(const char *path, int fd, hid_t *file)
{
    char same[32]; // of the file that was checked, which may have been replaced since
    hid_t access;

    h5_setup();
    snprintf(same, sizeof(same), "/proc/self/fd/%d", fd);
    access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, 0, 1); // file systems may lack locks, and nobody changes the file
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    *file = H5Fopen(same, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    return *file >= 0 ? ST_OK : fail(ST_FORMAT, "%s: no HDF5 file, or it was truncated", path);
}

status runfile_read(const char *path, struct runfile *out)
{
    struct runfile f = { 0 };
    struct reading r = { .path = path, .file = &f };
    hid_t file = -1;
    int fd = -1;
    status st;

    TRY_OUT(check_file(path, &fd, &f));
    TRY_OUT(open_file(path, fd, &file));
    H5Fget_filesize(file, &r.size);
    r.left = r.size;
    TRY_OUT(read_group(&r, "", file, 0));
    if (H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_INC, NULL, each_attribute, &r) < 0)
        TRY_OUT(runfile_fail(ST_FORMAT, path, "list", "the attributes"));
    TRY_OUT(r.st);
    *out = f;
out:
    if (file >= 0)
        H5Fclose(file);
    if (fd >= 0)
        close(fd);
    if (st != ST_OK)
        runfile_done(&f);
    return st;
}
