#include "runtime/runfile.h"

#include "runtime/newfile.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFLATE_MOST 1032 // bytes that one compressed byte can stand for
#define OBJECTS_MAX 1024  // of a file that is read: groups and arrays, and as many attributes
#define DEPTH_MAX 4       // groups inside groups

/* ---- HDF5's errors as our line ---- */

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

static status h5_fail(status st, const char *path, const char *did, const char *object)
{
    char reason[128] = "";

    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, find_reason, reason);
    return fail(st, "%s: cannot %s %s%s", path, did, object, reason);
}

/* How files are opened: HDF5's error stack silenced, no lock files (Lustre and NFS may lack them;
 * what we write has a name that nobody else opens), and nothing left open after H5Fclose. */
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

/* ---- the arrays and texts in memory ---- */

/* Whether a name, or one part of an array's name, is one that we write and read. */
static bool plain_name(const char *name)
{
    size_t n = 0;

    for (; name[n] != '\0'; n++) {
        if (!isalnum((unsigned char)name[n]) && strchr("_-.", name[n]) == NULL)
            return false;
    }
    return n > 0 && n < RUNFILE_NAME_BYTES && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Room for one element of `bytes` after `count` of them. */
static status grow(void **list, int count, size_t bytes)
{
    void *more = realloc(*list, ((size_t)count + 1) * bytes);

    if (more == NULL)
        return fail(ST_MEMORY, "no memory for a run file of %d objects", count + 1);
    *list = more;
    return ST_OK;
}

status runfile_add(struct runfile *f, const char *name, struct tensor value)
{
    struct run_array *a;
    void *list = f->arrays;

    assert(name[0] == '/' && strlen(name) < RUNFILE_NAME_BYTES);
    assert(value.data == NULL || tensor_contiguous(value));
    TRY(grow(&list, f->array_count, sizeof(*f->arrays)));
    f->arrays = list;
    a = &f->arrays[f->array_count++];
    *a = (struct run_array){ .value = value };
    strcpy(a->name, name);
    return ST_OK;
}

status runfile_add_text(struct runfile *f, const char *name, const char *text)
{
    struct run_text *t;
    void *list = f->texts;
    char *copy;

    assert(plain_name(name));
    TRY(grow(&list, f->text_count, sizeof(*f->texts)));
    f->texts = list;
    copy = strdup(text);
    if (copy == NULL)
        return fail(ST_MEMORY, "no memory for the text %s", name);
    t = &f->texts[f->text_count++];
    *t = (struct run_text){ .text = copy };
    strcpy(t->name, name);
    return ST_OK;
}

struct tensor runfile_find(const struct runfile *f, const char *name)
{
    for (int i = 0; i < f->array_count; i++) {
        if (strcmp(f->arrays[i].name, name) == 0)
            return f->arrays[i].value;
    }
    return (struct tensor){ 0 };
}

const char *runfile_text(const struct runfile *f, const char *name)
{
    for (int i = 0; i < f->text_count; i++) {
        if (strcmp(f->texts[i].name, name) == 0)
            return f->texts[i].text;
    }
    return NULL;
}

void runfile_done(struct runfile *f)
{
    for (int i = 0; i < f->array_count; i++)
        free(f->arrays[i].memory);
    for (int i = 0; i < f->text_count; i++)
        free(f->texts[i].text);
    free(f->arrays);
    free(f->texts);
    *f = (struct runfile){ 0 };
}

/* ---- writing ---- */

static hid_t type_of(enum dtype dt)
{
    assert(dt == DT_F32 || dt == DT_I64 || dt == DT_U8);
    return dt == DT_F32 ? H5T_NATIVE_FLOAT : dt == DT_I64 ? H5T_NATIVE_INT64 : H5T_NATIVE_UINT8;
}

/* Creates a data set, and its groups; writes it unless the tensor has no data. */
static status write_array(hid_t file, const char *path, const char *name, struct tensor t)
{
    const hid_t type = type_of(t.dtype);
    hsize_t dims[TENSOR_AXES] = { 0 };
    hid_t parents = H5Pcreate(H5P_LINK_CREATE), space = -1, set = -1;
    bool done = false;

    for (int i = 0; i < t.ndim; i++)
        dims[i] = (hsize_t)t.dim[i];
    H5Pset_create_intermediate_group(parents, 1);
    space = t.ndim > 0 ? H5Screate_simple(t.ndim, dims, NULL) : H5Screate(H5S_SCALAR);
    set = H5Dcreate2(file, name, type, space, parents, H5P_DEFAULT, H5P_DEFAULT);
    done = set >= 0 &&
           (t.data == NULL || H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, t.data) >= 0);
    const status st = done ? ST_OK : h5_fail(ST_IO, path, "write", name);
    if (set >= 0)
        H5Dclose(set);
    H5Sclose(space);
    H5Pclose(parents);
    return st;
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
    const hid_t type = text_type(), space = H5Screate(H5S_SCALAR);
    status st = ST_OK;
    hid_t attribute = -1;

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

status runfile_write(const char *path, const struct runfile *f)
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
    for (int i = 0; i < f->array_count; i++)
        TRY_OUT(write_array(file, path, f->arrays[i].name, f->arrays[i].value));
    for (int i = 0; i < f->text_count; i++)
        TRY_OUT(write_text(file, path, f->texts[i].name, f->texts[i].text));
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

/* Checks that the file has the bytes that the shape promises, and takes them from what is left. */
static status claim(struct reading *r, const char *name, hid_t set, hid_t type, struct tensor t)
{
    const hid_t list = H5Dget_create_plist(set);
    const bool other_file = H5Pget_layout(list) == H5D_VIRTUAL || H5Pget_external_count(list) > 0;
    const bool compressed = H5Pget_nfilters(list) > 0;
    const uint64_t stored = H5Dget_storage_size(set);
    uint64_t bytes = H5Tget_size(type);

    H5Pclose(list);
    if (other_file)
        return fail(ST_FORMAT, "%s: %s is stored in another file", r->path, name);
    for (int i = 0; i < t.ndim; i++) {
        if (t.dim[i] < 1 || (uint64_t)t.dim[i] > (UINT64_C(1) << 40) / bytes)
            return fail(ST_FORMAT, "%s: %s: axis %d has %lld elements", r->path, name, i,
                        (long long)t.dim[i]);
        bytes *= (uint64_t)t.dim[i];
    }
    if ((compressed ? bytes / DEFLATE_MOST : bytes) > stored)
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
    if (H5Dread(set, type_of(t->dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
        st = h5_fail(ST_FORMAT, r->path, "read", name);
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
    const hid_t type = H5Dget_type(set), space = H5Dget_space(set);
    struct tensor t = describe(type, space);
    status st = ST_OK;

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
    H5Sclose(space);
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
        return h5_fail(ST_FORMAT, r->path, "list", "its objects");
    if (link.type != H5L_TYPE_HARD || length >= (ssize_t)sizeof(part) || !plain_name(part) ||
        snprintf(name, sizeof(name), "%s/%s", prefix, part) >= (int)sizeof(name))
        return ST_OK;
    object = H5Oopen(group, part, H5P_DEFAULT);
    if (object < 0)
        return h5_fail(ST_FORMAT, r->path, "open", name);
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
        return h5_fail(ST_FORMAT, r->path, "list", "its objects");
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

/* A text of variable length, as we write it: *text is malloc'ed. */
static status read_variable(const char *path, const char *name, hid_t attribute, hid_t type,
                            char **text)
{
    const hid_t memory = text_type();
    char *got = NULL;
    status st = ST_OK;

    H5Tset_cset(memory, H5Tget_cset(type));
    if (H5Aread(attribute, memory, &got) < 0) {
        st = h5_fail(ST_FORMAT, path, "read the attribute", name);
    } else {
        *text = strdup(got != NULL ? got : ""); // HDF5 reads an empty text as NULL
        H5free_memory(got);
    }
    H5Tclose(memory);
    return st;
}

/* A text of fixed length, as others may write it: *text is malloc'ed. */
static status read_fixed(const struct reading *r, const char *name, hid_t attribute, hid_t type,
                         char **text)
{
    const size_t bytes = H5Tget_size(type);

    if (bytes > r->size)
        return fail(ST_FORMAT, "%s: the attribute %s has %zu bytes, more than the file", r->path,
                    name, bytes);
    *text = calloc(1, bytes + 1);
    if (*text != NULL && H5Aread(attribute, type, *text) < 0)
        return h5_fail(ST_FORMAT, r->path, "read the attribute", name);
    return ST_OK;
}

static status read_text(struct reading *r, const char *name, hid_t attribute)
{
    const hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    char *text = NULL;
    status st = ST_OK;

    if (type < 0 || space < 0 || H5Tget_class(type) != H5T_STRING ||
        H5Sget_simple_extent_npoints(space) != 1)
        goto out;
    TRY_OUT(H5Tis_variable_str(type) > 0 ? read_variable(r->path, name, attribute, type, &text)
                                         : read_fixed(r, name, attribute, type, &text));
    if (text == NULL)
        TRY_OUT(fail(ST_MEMORY, "%s: no memory for the attribute %s", r->path, name));
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
    if (!plain_name(name))
        return 0;
    attribute = H5Aopen(file, name, H5P_DEFAULT);
    if (attribute < 0) {
        r->st = h5_fail(ST_FORMAT, r->path, "read the attribute", name);
        return 1;
    }
    r->st = read_text(r, name, attribute);
    H5Aclose(attribute);
    return r->st != ST_OK;
}

/* `shown` is the path for error lines. */
static status open_file(const char *path, const char *shown, unsigned how, hid_t *file)
{
    const hid_t access = access_list();
    FILE *f = fopen(path, "rb"); // for the system's own reason
    status st = ST_OK;

    if (f == NULL) {
        st = fail(ST_IO, "%s: %s", shown, strerror(errno));
        goto out;
    }
    fclose(f);
    *file = H5Fopen(path, how, access);
    if (*file < 0)
        st = fail(ST_FORMAT, "%s: no HDF5 file, or it was truncated", shown);
out:
    H5Pclose(access);
    return st;
}

status runfile_read(const char *path, struct runfile *out)
{
    struct runfile f = { 0 };
    struct reading r = { .path = path, .file = &f };
    hid_t file = -1;
    status st;

    TRY_OUT(open_file(path, path, H5F_ACC_RDONLY, &file));
    H5Fget_filesize(file, &r.size);
    r.left = r.size;
    TRY_OUT(read_group(&r, "", file, 0));
    if (H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_INC, NULL, each_attribute, &r) < 0)
        TRY_OUT(h5_fail(ST_FORMAT, path, "list", "the attributes"));
    TRY_OUT(r.st);
    *out = f;
out:
    if (file >= 0)
        H5Fclose(file);
    if (st != ST_OK)
        runfile_done(&f);
    return st;
}

/* ---- changing: always in a copy, so that a failure leaves the file as it was ---- */

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

status runfile_set_text(const char *path, const char *name, const char *text)
{
    status st;
    struct newfile to = { 0 };
    hid_t file = -1;

    TRY_OUT(newfile_open(&to, path));
    TRY_OUT(copy_bytes(path, to.temp));
    TRY_OUT(open_file(to.temp, path, H5F_ACC_RDWR, &file));
    TRY_OUT(write_text(file, path, name, text));
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
    if (H5Lexists(f->file, "/frames", H5P_DEFAULT) > 0)
        H5Ldelete(f->file, "/frames", H5P_DEFAULT);
    TRY_OUT(write_array(f->file, path, "/frames", tensor_of(NULL, DT_U8, count, h, w, 3)));
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
