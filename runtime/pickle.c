/* A restricted reader of the pickles that torch.save writes.
 *
 * A pickle is a program for a stack machine, and the usual machine imports and calls whatever the
 * file names. This one knows a dozen names, for which it builds plain values, and refuses all
 * others by name. Values refer to each other by pointer and live until the end; each opcode makes
 * at most one, so memory is bounded by the pickle's size. Nothing recurses except the walk over the
 * finished dicts, which is bounded too. */
#include "runtime/tensorfile_internal.h"

#include <stdlib.h>
#include <string.h>

#define STORAGE_KEY_BYTES 64
#define DICT_DEPTH_MAX 8
#define CHUNK_VALUES 1024

enum kind {
    KIND_NONE, // None, True, False, floats: nothing that a tensor is made of
    KIND_INT,
    KIND_STRING,
    KIND_GLOBAL,
    KIND_MARK,
    KIND_TUPLE,
    KIND_LIST,
    KIND_DICT, // items are key, value, key, value
    KIND_STORAGE,
    KIND_TENSOR,
};

enum callable {
    CALL_ORDERED_DICT,
    CALL_TENSOR,
    CALL_TYPED_TENSOR,
    CALL_PARAMETER,
    CALL_STORAGE,
    CALL_DTYPE, // a dtype, which is not called
};

struct value {
    enum kind kind;
    union {
        int64_t integer;
        struct {
            const char *text; // in the pickle, without a zero at its end
            size_t length;
        } string;
        struct {
            struct value **item;
            size_t count, room;
        } list; // tuples, lists and dicts
        const struct global *global;
        struct {
            enum dtype dtype;
            uint64_t offset, bytes; // in the file
        } storage;
        struct {
            enum dtype dtype;
            int ndim;
            int64_t dim[TENSOR_AXES], stride[TENSOR_AXES];
            uint64_t offset;
        } tensor;
    } u;
};

static const struct global {
    const char *module, *name;
    enum callable call;
    enum dtype dtype; // of a storage class, and itself
} globals[] = {
    { "collections", "OrderedDict", CALL_ORDERED_DICT, DT_NONE },
    { "torch._utils", "_rebuild_tensor_v2", CALL_TENSOR, DT_NONE },
    { "torch._utils", "_rebuild_tensor_v3", CALL_TYPED_TENSOR,
      DT_NONE }, // of dtypes without a class
    { "torch._utils", "_rebuild_parameter", CALL_PARAMETER, DT_NONE },
    { "torch", "FloatStorage", CALL_STORAGE, DT_F32 },
    { "torch", "BFloat16Storage", CALL_STORAGE, DT_BF16 },
    { "torch", "HalfStorage", CALL_STORAGE, DT_F16 },
    { "torch", "DoubleStorage", CALL_STORAGE, DT_F64 },
    { "torch", "LongStorage", CALL_STORAGE, DT_I64 },
    { "torch", "IntStorage", CALL_STORAGE, DT_I32 },
    { "torch", "ShortStorage", CALL_STORAGE, DT_I16 },
    { "torch", "CharStorage", CALL_STORAGE, DT_I8 },
    { "torch", "ByteStorage", CALL_STORAGE, DT_U8 },
    { "torch", "BoolStorage", CALL_STORAGE, DT_BOOL },
    { "torch.storage", "UntypedStorage", CALL_STORAGE, DT_U8 },
    { "torch", "float8_e4m3fn", CALL_DTYPE, DT_F8_E4M3 },
    { "torch", "float8_e5m2", CALL_DTYPE, DT_F8_E5M2 },
    { "torch", "float8_e8m0fnu", CALL_DTYPE, DT_F8_E8M0 },
};

struct chunk {
    struct chunk *next;
    int used;
    struct value value[CHUNK_VALUES];
};

struct machine {
    const struct tensor_source *src;
    const uint8_t *data;
    size_t size, at;
    struct pickle_storages storages;
    struct chunk *chunks;
    struct value **stack, **memo;
    size_t height, stack_room, memo_count, memo_room;
    size_t pairs; // items put into dicts, which bounds the walk
};

static status bad(const struct machine *m, const char *what)
{
    return fail(ST_FORMAT, "%s: its pickle is damaged at byte %zu: %s", m->src->path, m->at, what);
}

static status no_memory(const struct machine *m)
{
    return fail(ST_MEMORY, "%s: no memory to read its pickle", m->src->path);
}

static status take(struct machine *m, size_t count, const uint8_t **bytes)
{
    if (count > m->size - m->at)
        return bad(m, "it ends inside an instruction");
    *bytes = m->data + m->at;
    m->at += count;
    return ST_OK;
}

/* A little-endian unsigned number of 1 to 8 bytes. */
static status take_number(struct machine *m, size_t bytes, uint64_t *number)
{
    const uint8_t *b = NULL;

    TRY(take(m, bytes, &b));
    *number = 0;
    for (size_t i = bytes; i > 0; i--)
        *number = *number << 8 | b[i - 1];
    return ST_OK;
}

/* The text up to the next newline, which is skipped. */
static status take_line(struct machine *m, const char **text, size_t *length)
{
    const uint8_t *from = m->data + m->at, *end = memchr(from, '\n', m->size - m->at);

    if (end == NULL)
        return bad(m, "a name does not end");
    *text = (const char *)from;
    *length = (size_t)(end - from);
    m->at += *length + 1;
    return ST_OK;
}

/* Room for one more in a growing array of pointers. */
static status grow(const struct machine *m, struct value ***array, size_t count, size_t *room)
{
    const size_t more = *room ? 2 * *room : 8;
    struct value **bigger;

    if (count < *room)
        return ST_OK;
    bigger = realloc(*array, more * sizeof(**array));
    if (bigger == NULL)
        return no_memory(m);
    *array = bigger;
    *room = more;
    return ST_OK;
}

static status push_old(struct machine *m, struct value *v)
{
    TRY(grow(m, &m->stack, m->height, &m->stack_room));
    m->stack[m->height++] = v;
    return ST_OK;
}

static status push(struct machine *m, struct value v)
{
    struct value *kept;

    if (m->chunks == NULL || m->chunks->used == CHUNK_VALUES) {
        struct chunk *c = malloc(sizeof(*c));

        if (c == NULL)
            return no_memory(m);
        c->next = m->chunks;
        c->used = 0;
        m->chunks = c;
    }
    kept = &m->chunks->value[m->chunks->used++];
    *kept = v;
    return push_old(m, kept);
}

static status pop(struct machine *m, struct value **v)
{
    if (m->height == 0 || m->stack[m->height - 1]->kind == KIND_MARK)
        return bad(m, "nothing is on the stack where a value must be");
    *v = m->stack[--m->height];
    return ST_OK;
}

/* Index of the first item above the topmost mark; the caller removes the items and the mark. */
static status find_mark(struct machine *m, size_t *first)
{
    for (size_t i = m->height; i > 0; i--) {
        if (m->stack[i - 1]->kind == KIND_MARK) {
            *first = i;
            return ST_OK;
        }
    }
    return bad(m, "no mark is on the stack");
}

static status append(struct machine *m, struct value *to, struct value *item)
{
    TRY(grow(m, &to->u.list.item, to->u.list.count, &to->u.list.room));
    to->u.list.item[to->u.list.count++] = item;
    return ST_OK;
}

/* Makes a tuple or list of stack items [first, height), and drops what is from `drop` on. */
static status push_tuple(struct machine *m, size_t first, size_t drop)
{
    struct value *tuple;
    const size_t height = m->height;

    TRY(push(m, (struct value){ .kind = KIND_TUPLE }));
    tuple = m->stack[--m->height];
    for (size_t i = first; i < height; i++)
        TRY(append(m, tuple, m->stack[i]));
    m->height = drop;
    return push_old(m, tuple);
}

static status push_fixed_tuple(struct machine *m, size_t count)
{
    if (m->height < count)
        return bad(m, "a tuple of more values than there are");
    for (size_t i = m->height - count; i < m->height; i++) {
        if (m->stack[i]->kind == KIND_MARK)
            return bad(m, "a tuple of more values than there are");
    }
    return push_tuple(m, m->height - count, m->height - count);
}

/* Takes the items from stack[first] on into the dict or list below `drop`. */
static status set_items(struct machine *m, size_t first, size_t drop, enum kind kind)
{
    struct value *to;

    if (drop == 0 || m->stack[drop - 1]->kind != kind)
        return bad(m, "items are set in something that holds none");
    to = m->stack[drop - 1];
    if (kind == KIND_DICT && (m->height - first) % 2 != 0)
        return bad(m, "a key has no value");
    for (size_t i = first; i < m->height; i++)
        TRY(append(m, to, m->stack[i]));
    if (kind == KIND_DICT)
        m->pairs += (m->height - first) / 2;
    m->height = drop;
    return ST_OK;
}

static status push_string(struct machine *m, size_t length_bytes)
{
    uint64_t length = 0;
    const uint8_t *text = NULL;

    TRY(take_number(m, length_bytes, &length));
    if (length > m->size - m->at)
        return bad(m, "a string is longer than the pickle");
    TRY(take(m, (size_t)length, &text));
    return push(m, (struct value){ .kind = KIND_STRING,
                                   .u.string = { (const char *)text, (size_t)length } });
}

static status push_int(struct machine *m, int64_t integer)
{
    return push(m, (struct value){ .kind = KIND_INT, .u.integer = integer });
}

/* LONG1: a two's complement number of the length that its first byte says. */
static status push_long(struct machine *m)
{
    uint64_t length = 0, number = 0;

    TRY(take_number(m, 1, &length));
    if (length > 8)
        return bad(m, "a number of more than 64 bits");
    TRY(take_number(m, (size_t)length, &number));
    if (length > 0 && length < 8 && number >> (8 * length - 1) != 0)
        number |= ~(uint64_t)0 << 8 * length;
    return push_int(m, (int64_t)number);
}

static status push_global(struct machine *m, const char *module, size_t module_length,
                          const char *name, size_t name_length)
{
    char shown[128];
    int n = 0;

    for (size_t i = 0; i < COUNT(globals); i++) {
        if (strlen(globals[i].module) == module_length &&
            memcmp(globals[i].module, module, module_length) == 0 &&
            strlen(globals[i].name) == name_length &&
            memcmp(globals[i].name, name, name_length) == 0)
            return push(m, (struct value){ .kind = KIND_GLOBAL, .u.global = &globals[i] });
    }
    for (size_t i = 0; i < module_length && n < 60; i++)
        shown[n++] = module[i] > ' ' && module[i] < 0x7f ? module[i] : '?';
    shown[n++] = '.';
    for (size_t i = 0; i < name_length && n < 120; i++)
        shown[n++] = name[i] > ' ' && name[i] < 0x7f ? name[i] : '?';
    shown[n] = '\0';
    return fail(ST_FORMAT,
                "%s: its pickle calls %s, which tensors do not need; refused, nothing of it was "
                "executed",
                m->src->path, shown);
}

static status push_stack_global(struct machine *m)
{
    struct value *name = NULL, *module = NULL;

    TRY(pop(m, &name));
    TRY(pop(m, &module));
    if (name->kind != KIND_STRING || module->kind != KIND_STRING)
        return bad(m, "the name of a global is no string");
    return push_global(m, module->u.string.text, module->u.string.length, name->u.string.text,
                       name->u.string.length);
}

static bool string_is(const struct value *v, const char *text)
{
    return v->kind == KIND_STRING && v->u.string.length == strlen(text) &&
           memcmp(v->u.string.text, text, v->u.string.length) == 0;
}

/* BINPERSID: ('storage', storage class, key, device, elements). */
static status push_storage(struct machine *m)
{
    struct value *id = NULL, **item, storage = { .kind = KIND_STORAGE };
    char key[STORAGE_KEY_BYTES];
    uint64_t bytes = 0, held = 0;

    TRY(pop(m, &id));
    item = id->u.list.item;
    if (id->kind != KIND_TUPLE || id->u.list.count != 5 || !string_is(item[0], "storage") ||
        item[1]->kind != KIND_GLOBAL || item[1]->u.global->call != CALL_STORAGE ||
        item[2]->kind != KIND_STRING || item[4]->kind != KIND_INT || item[4]->u.integer < 0)
        return bad(m, "a persistent id is no storage of a tensor");
    if (item[2]->u.string.length >= sizeof(key) ||
        memchr(item[2]->u.string.text, '\0', item[2]->u.string.length) != NULL)
        return bad(m, "the key of a storage is too long");
    memcpy(key, item[2]->u.string.text, item[2]->u.string.length);
    key[item[2]->u.string.length] = '\0';
    storage.u.storage.dtype = item[1]->u.global->dtype;
    TRY(m->storages.find(m->storages.payload, key, &storage.u.storage.offset, &held));
    if (__builtin_mul_overflow((uint64_t)item[4]->u.integer,
                               (uint64_t)dtype_size(storage.u.storage.dtype), &bytes) ||
        bytes > held)
        return fail(ST_FORMAT, "%s: storage %s has %llu bytes where %lld %s are said to be",
                    m->src->path, key, (unsigned long long)held, (long long)item[4]->u.integer,
                    dtype_name(storage.u.storage.dtype));
    storage.u.storage.bytes = bytes;
    return push(m, storage);
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]), and
 * _rebuild_tensor_v3 with a dtype before the metadata. */
static status push_tensor(struct machine *m, const struct value *args, bool has_dtype)
{
    struct value t = { .kind = KIND_TENSOR }, **item = args->u.list.item, *storage, **dim, **stride;
    int64_t last, reach;
    uint64_t bytes, need;
    int64_t count;

    if (args->u.list.count < 6u + has_dtype || args->u.list.count > 7u + has_dtype ||
        item[0]->kind != KIND_STORAGE || item[1]->kind != KIND_INT || item[1]->u.integer < 0 ||
        item[2]->kind != KIND_TUPLE || item[3]->kind != KIND_TUPLE ||
        item[2]->u.list.count != item[3]->u.list.count)
        return bad(m, "a tensor is not built from a storage, sizes and strides");
    if (item[2]->u.list.count > TENSOR_AXES)
        return bad(m, "a tensor of more than 5 axes");
    storage = item[0];
    dim = item[2]->u.list.item;
    stride = item[3]->u.list.item;
    t.u.tensor.dtype = storage->u.storage.dtype;
    if (has_dtype) {
        if (item[6]->kind != KIND_GLOBAL || item[6]->u.global->call != CALL_DTYPE)
            return bad(m, "a tensor's dtype is none that is known");
        t.u.tensor.dtype = item[6]->u.global->dtype;
    }
    t.u.tensor.ndim = (int)item[2]->u.list.count;
    last = item[1]->u.integer;
    for (int i = 0; i < t.u.tensor.ndim; i++) {
        if (dim[i]->kind != KIND_INT || stride[i]->kind != KIND_INT || dim[i]->u.integer < 0 ||
            stride[i]->u.integer < 0)
            return bad(m, "a tensor's size or stride is negative or no number");
        t.u.tensor.dim[i] = dim[i]->u.integer;
        t.u.tensor.stride[i] = stride[i]->u.integer;
        if (__builtin_mul_overflow(dim[i]->u.integer ? dim[i]->u.integer - 1 : 0,
                                   stride[i]->u.integer, &reach) ||
            __builtin_add_overflow(last, reach, &last))
            return bad(m, "a tensor's strides reach beyond 63 bits");
    }
    TRY(tensor_extent(m->src, "in the pickle", t.u.tensor.dtype, t.u.tensor.ndim, t.u.tensor.dim,
                      &count, &bytes));
    // an empty tensor may point anywhere in its storage, or at its end
    if (__builtin_mul_overflow((uint64_t)last + (count > 0), (uint64_t)dtype_size(t.u.tensor.dtype),
                               &need) ||
        (count > 0 && need > storage->u.storage.bytes))
        return bad(m, "a tensor reaches beyond its storage");
    t.u.tensor.offset = storage->u.storage.offset;
    if (count > 0)
        t.u.tensor.offset += (uint64_t)item[1]->u.integer * dtype_size(t.u.tensor.dtype);
    return push(m, t);
}

/* REDUCE: the known callables, which build a value each. */
static status call(struct machine *m)
{
    struct value *args = NULL, *callable = NULL;

    TRY(pop(m, &args));
    TRY(pop(m, &callable));
    if (callable->kind != KIND_GLOBAL || args->kind != KIND_TUPLE)
        return bad(m, "it calls something that is no function");
    switch (callable->u.global->call) {
    case CALL_ORDERED_DICT:
        if (args->u.list.count != 0)
            return bad(m, "an OrderedDict with arguments");
        return push(m, (struct value){ .kind = KIND_DICT });
    case CALL_TENSOR:
    case CALL_TYPED_TENSOR:
        return push_tensor(m, args, callable->u.global->call == CALL_TYPED_TENSOR);
    case CALL_PARAMETER: // (tensor, requires_grad, hooks)
        if (args->u.list.count < 1 || args->u.list.item[0]->kind != KIND_TENSOR)
            return bad(m, "a parameter is not built from a tensor");
        return push_old(m, args->u.list.item[0]);
    case CALL_STORAGE:
    case CALL_DTYPE:
        break;
    }
    return bad(m, "it calls a storage class or a dtype");
}

/* BUILD sets attributes (a state_dict's _metadata): nothing that the tensors depend on. */
static status build(struct machine *m)
{
    struct value *state = NULL;

    TRY(pop(m, &state));
    if (m->height == 0 || (m->stack[m->height - 1]->kind != KIND_DICT &&
                           m->stack[m->height - 1]->kind != KIND_TENSOR))
        return bad(m, "attributes are set on something that has none");
    return ST_OK;
}

static status put_memo(struct machine *m, uint64_t index)
{
    // picklers count up from 0, so that an index beyond the bytes read so far is no pickler's
    if (index > m->at)
        return bad(m, "a memo index out of order");
    if (m->height == 0)
        return bad(m, "nothing is on the stack where a value must be");
    while (m->memo_count <= index) {
        TRY(grow(m, &m->memo, m->memo_count, &m->memo_room));
        m->memo[m->memo_count++] = NULL;
    }
    m->memo[index] = m->stack[m->height - 1];
    return ST_OK;
}

static status get_memo(struct machine *m, uint64_t index)
{
    if (index >= m->memo_count || m->memo[index] == NULL)
        return bad(m, "a memo index that was not filled");
    return push_old(m, m->memo[index]);
}

/* One instruction; *stop at the last one. */
static status step(struct machine *m, bool *stop)
{
    const uint8_t *op = NULL;
    const char *module = NULL, *name = NULL;
    size_t module_length = 0, name_length = 0, first = 0;
    uint64_t number = 0;
    struct value *dropped = NULL;

    TRY(take(m, 1, &op));
    switch (*op) {
    case 0x80: // PROTO
        TRY(take_number(m, 1, &number));
        return number <= 5 ? ST_OK : bad(m, "a protocol above 5");
    case 0x95: // FRAME
        return take_number(m, 8, &number);
    case '.': // STOP
        *stop = true;
        return ST_OK;
    case '(': // MARK
        return push(m, (struct value){ .kind = KIND_MARK });
    case '0': // POP
        return pop(m, &dropped);
    case 'N':  // NONE
    case 0x88: // NEWTRUE
    case 0x89: // NEWFALSE
        return push(m, (struct value){ .kind = KIND_NONE });
    case 'G': // BINFLOAT
        TRY(take_number(m, 8, &number));
        return push(m, (struct value){ .kind = KIND_NONE });
    case 'K': // BININT1
        TRY(take_number(m, 1, &number));
        return push_int(m, (int64_t)number);
    case 'M': // BININT2
        TRY(take_number(m, 2, &number));
        return push_int(m, (int64_t)number);
    case 'J': // BININT
        TRY(take_number(m, 4, &number));
        return push_int(m, (int32_t)(uint32_t)number);
    case 0x8a: // LONG1
        return push_long(m);
    case 0x8c: // SHORT_BINUNICODE
        return push_string(m, 1);
    case 'X': // BINUNICODE
        return push_string(m, 4);
    case 0x8d: // BINUNICODE8
        return push_string(m, 8);
    case 'c': // GLOBAL
        TRY(take_line(m, &module, &module_length));
        TRY(take_line(m, &name, &name_length));
        return push_global(m, module, module_length, name, name_length);
    case 0x93: // STACK_GLOBAL
        return push_stack_global(m);
    case 'Q': // BINPERSID
        return push_storage(m);
    case ')': // EMPTY_TUPLE
        return push_tuple(m, m->height, m->height);
    case 0x85: // TUPLE1
    case 0x86: // TUPLE2
    case 0x87: // TUPLE3
        return push_fixed_tuple(m, *op - 0x84u);
    case 't': // TUPLE
        TRY(find_mark(m, &first));
        return push_tuple(m, first, first - 1);
    case ']': // EMPTY_LIST
        return push(m, (struct value){ .kind = KIND_LIST });
    case 'a': // APPEND
        if (m->height < 2)
            return bad(m, "items are set in something that holds none");
        return set_items(m, m->height - 1, m->height - 1, KIND_LIST);
    case 'e': // APPENDS
        TRY(find_mark(m, &first));
        return set_items(m, first, first - 1, KIND_LIST);
    case '}': // EMPTY_DICT
        return push(m, (struct value){ .kind = KIND_DICT });
    case 's': // SETITEM
        if (m->height < 3)
            return bad(m, "items are set in something that holds none");
        return set_items(m, m->height - 2, m->height - 2, KIND_DICT);
    case 'u': // SETITEMS
        TRY(find_mark(m, &first));
        return set_items(m, first, first - 1, KIND_DICT);
    case 'R': // REDUCE
        return call(m);
    case 'b': // BUILD
        return build(m);
    case 'q': // BINPUT
        TRY(take_number(m, 1, &number));
        return put_memo(m, number);
    case 'r': // LONG_BINPUT
        TRY(take_number(m, 4, &number));
        return put_memo(m, number);
    case 0x94: // MEMOIZE
        return put_memo(m, m->memo_count);
    case 'h': // BINGET
        TRY(take_number(m, 1, &number));
        return get_memo(m, number);
    case 'j': // LONG_BINGET
        TRY(take_number(m, 4, &number));
        return get_memo(m, number);
    default:
        return fail(ST_FORMAT,
                    "%s: its pickle has the instruction 0x%02x at byte %zu, which tensors do not "
                    "need; refused",
                    m->src->path, *op, m->at - 1);
    }
}

/* Adds the tensors of a dict, those of dicts in it under "outer.inner". */
static status walk(struct machine *m, const struct value *dict, const char *prefix, int depth,
                   struct tensor_list *list)
{
    char name[1200];

    if (depth > DICT_DEPTH_MAX)
        return fail(ST_FORMAT, "%s: dicts in its pickle are nested more than %d deep", m->src->path,
                    DICT_DEPTH_MAX);
    for (size_t i = 0; i + 1 < dict->u.list.count; i += 2) {
        const struct value *key = dict->u.list.item[i], *v = dict->u.list.item[i + 1];
        size_t used = strlen(prefix);

        if (m->pairs-- == 0)
            return fail(ST_FORMAT, "%s: a dict in its pickle is inside itself, or twice in others",
                        m->src->path);
        if (v->kind != KIND_TENSOR && (v->kind != KIND_DICT || key->kind == KIND_INT))
            continue; // counters, versions, an optimizer's state
        if (key->kind != KIND_STRING ||
            memchr(key->u.string.text, '\0', key->u.string.length) != NULL ||
            used + key->u.string.length + 2 > sizeof(name))
            return fail(ST_FORMAT, "%s: a tensor in its pickle has no usable name", m->src->path);
        memcpy(name, prefix, used);
        memcpy(name + used, key->u.string.text, key->u.string.length);
        used += key->u.string.length;
        name[used] = '\0';
        if (v->kind == KIND_TENSOR) {
            TRY(tensor_list_add(list, m->src, name, v->u.tensor.dtype, v->u.tensor.ndim,
                                v->u.tensor.dim, v->u.tensor.stride, v->u.tensor.offset));
        } else {
            name[used] = '.';
            name[used + 1] = '\0';
            TRY(walk(m, v, name, depth + 1, list));
        }
    }
    return ST_OK;
}

/* Training programs wrap the weights: {"state_dict": {...}, "epoch": 3}. */
static const struct value *unwrap(const struct value *dict)
{
    for (size_t i = 0; i + 1 < dict->u.list.count; i += 2) {
        if (string_is(dict->u.list.item[i], "state_dict") &&
            dict->u.list.item[i + 1]->kind == KIND_DICT)
            return dict->u.list.item[i + 1];
    }
    return dict;
}

static void free_values(struct machine *m)
{
    while (m->chunks != NULL) {
        struct chunk *next = m->chunks->next;

        for (int i = 0; i < m->chunks->used; i++) {
            struct value *v = &m->chunks->value[i];

            if (v->kind == KIND_TUPLE || v->kind == KIND_LIST || v->kind == KIND_DICT)
                free(v->u.list.item);
        }
        free(m->chunks);
        m->chunks = next;
    }
    free(m->stack);
    free(m->memo);
}

status pickle_list(const struct tensor_source *src, const uint8_t *data, size_t size,
                   struct pickle_storages storages, struct tensor_list *list)
{
    struct machine m = { .src = src, .data = data, .size = size, .storages = storages };
    struct value *top = NULL;
    bool stop = false;
    status st = ST_OK;

    while (!stop)
        TRY_OUT(step(&m, &stop));
    TRY_OUT(pop(&m, &top));
    if (top->kind != KIND_DICT) {
        st = fail(ST_FORMAT, "%s: its pickle holds no dict of tensors", src->path);
        goto out;
    }
    TRY_OUT(walk(&m, unwrap(top), "", 1, list));
out:
    free_values(&m);
    return st;
}
