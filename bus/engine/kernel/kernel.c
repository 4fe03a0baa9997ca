/* The engine's kernel: one change event in, its verified event and the agencies' deliveries out, as bus.engine.plan promises.
 *
 * The semantics are those of the Python that bus.engine.generate writes; this is the same work in one pass over the bytes.
 * Names follow it: `now` and `was` are the row after and before the change (of a deleted row `now` is the one before).
 * All that can fail comes first; then what appends and counts. Nothing is read beyond a record, a span or a packed person. */
#include "plan.h"

#define MOST_ROLES 16

/* What one call works on. */
typedef struct {
    Plan *plan;
    const uint8_t *b;
    Py_ssize_t size;
    PyObject *key, *person_of, *seqs, *force, *out;
    const int32_t *now, *was; /* spans of the row's columns */
    int op, verdict, verdict_before;
    PyObject *person; /* the subject's packed record, or NULL */
    int shared_row_key;
    uint8_t row_key[KEY_BYTES];
} Event;

/* What was found out about one role. */
typedef struct {
    int verdict;
    Bytes head, offset;
    PyObject *kept[2]; /* owners of the bytes above */
} Finding;

static inline Bytes span(const Event *e, const int32_t *row, int column)
{
    Bytes found = {e->b + row[2 * column], row[2 * column + 1] - row[2 * column]};
    return found;
}

static inline int same(Bytes one, Bytes other)
{
    return one.size == other.size && !memcmp(one.at, other.at, (size_t)one.size);
}

static inline Bytes beyond(Bytes found, int lead)
{
    int by = lead < found.size ? lead : (int)found.size;
    found.at += by;
    found.size -= by;
    return found;
}

static PyObject *object_of(Bytes found)
{
    return PyBytes_FromStringAndSize((const char *)found.at, found.size);
}

static int malformed(const Plan *plan, PyObject *code)
{
    if (code)
        PyErr_SetObject(plan->malformed, code);
    else
        PyErr_SetNone(plan->malformed);
    return -1;
}

static int put(Buffer *to, const void *from, Py_ssize_t size)
{
    if (!size) /* nothing may be nowhere, of which memcpy must not hear */
        return 0;
    if (size > to->room - to->size) {
        Py_ssize_t room = 2 * (to->size + size) + 1024;
        uint8_t *at = PyMem_Realloc(to->at, (size_t)room);
        if (!at) {
            PyErr_NoMemory();
            return -1;
        }
        to->at = at;
        to->room = room;
    }
    memcpy(to->at + to->size, from, (size_t)size);
    to->size += size;
    return 0;
}

/* -- the register's record: (columns + 1) x uint32, offset union, person union; see bus.engine.person */

static uint32_t place(const uint8_t *p, int column)
{
    p += 4 * column;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Every later look stays within the record if this holds: places grow and the last one is the end. */
static int check_person(const Plan *plan, PyObject *person)
{
    const uint8_t *p = (const uint8_t *)PyBytes_AsString(person);
    if (!p)
        return -1;
    Py_ssize_t size = PyBytes_GET_SIZE(person), head = 4 * ((Py_ssize_t)plan->register_columns + 1);
    int good = size > head && place(p, 0) > head;
    for (int i = 0; good && i < plan->register_columns; i++)
        good = place(p, i) <= place(p, i + 1);
    if (good && (Py_ssize_t)place(p, plan->register_columns) <= size)
        return 0;
    PyErr_SetString(PyExc_ValueError, "a record of the register replica is damaged");
    return -1;
}

static Bytes known(PyObject *person, int column)
{
    const uint8_t *p = (const uint8_t *)PyBytes_AS_STRING(person);
    Bytes found = {p + place(p, column), (Py_ssize_t)(place(p, column + 1) - place(p, column))};
    return found;
}

static Bytes register_offset(const Plan *plan, PyObject *person)
{
    const uint8_t *p = (const uint8_t *)PyBytes_AS_STRING(person);
    Py_ssize_t head = 4 * ((Py_ssize_t)plan->register_columns + 1);
    Bytes found = {p + head, (Py_ssize_t)place(p, 0) - 1 - head};
    return found;
}

/* 1: *person is a new reference; 0: the register does not know them; -1. */
static int look_up(const Event *e, PyObject *key, PyObject **person)
{
    *person = PyObject_CallOneArg(e->person_of, key);
    if (!*person)
        return -1;
    if (*person != Py_None)
        return check_person(e->plan, *person) < 0 ? -1 : 1;
    Py_CLEAR(*person);
    return 0;
}

/* -- verification */

/* The exact comparison, in Python. */
static int call_differs(const Check *c, Bytes ours, Bytes theirs)
{
    PyObject *one = object_of(ours), *other = object_of(theirs), *pair = NULL, *said = NULL;
    int answer = -1;
    if (one && other) {
        if (c->paired) {
            pair = PyTuple_Pack(2, one, other);
            said = pair ? PyObject_GetItem(c->differs, pair) : NULL;
        } else
            said = PyObject_CallFunctionObjArgs(c->differs, one, other, NULL);
        if (said)
            answer = PyObject_IsTrue(said);
    }
    Py_XDECREF(one), Py_XDECREF(other), Py_XDECREF(pair), Py_XDECREF(said);
    return answer;
}

/* Whether our value, in the register's form, is what the register says: then nothing need be read. */
static int agrees_in_form(const Check *c, Bytes ours, PyObject *person)
{
    PyObject *value = object_of(ours), *form = value ? PyObject_GetItem(c->form, value) : NULL;
    int answer = -1;
    if (form && PyBytes_Check(form)) {
        Bytes made = {(const uint8_t *)PyBytes_AS_STRING(form), PyBytes_GET_SIZE(form)};
        Bytes theirs = beyond(known(person, c->theirs), c->lead_theirs);
        if (c->how == BY_YEAR) { /* behind the text's length: the year and what parts it from the month */
            theirs = beyond(theirs, 1);
            theirs.size = theirs.size < 5 ? theirs.size : 5;
        }
        answer = same(made, theirs);
    }
    Py_XDECREF(value), Py_XDECREF(form);
    return answer;
}

/* The text of an encoded string, which has been walked. */
static Bytes text(Bytes value, int lead)
{
    value = beyond(value, lead);
    int more = 1;
    while (more && value.size) {
        more = *value.at & 128;
        value = beyond(value, 1);
    }
    return value;
}

/* The next character's folded form, or NO_FOLD where the table has none; *from moves on. */
static unsigned next_folded(const uint16_t *folds, Bytes *from)
{
    const uint8_t *s = from->at;
    unsigned c = s[0], size = c < 0x80 ? 1 : c < 0xE0 ? 2 : 3;
    if (c >= 0xF0 || (Py_ssize_t)size > from->size)
        return NO_FOLD;
    if (size == 2)
        c = (c & 0x1F) << 6 | (s[1] & 0x3F);
    else if (size == 3)
        c = (c & 0x0F) << 12 | (unsigned)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
    *from = beyond(*from, (int)size);
    return c < FOLDS ? folds[c] : NO_FOLD;
}

/* Whether two texts that are there differ in case alone, as far as one character stands for one. A null contradicts nothing. */
static int agrees_folded(const Plan *plan, const Check *c, Bytes ours, Bytes theirs)
{
    const uint16_t *folds = (const uint16_t *)(const void *)plan->folds.at;
    if ((c->lead && !*ours.at) || (c->lead_theirs && theirs.size && !*theirs.at))
        return 1;
    ours = text(ours, c->lead);
    theirs = text(theirs, c->lead_theirs);
    while (ours.size && theirs.size) {
        unsigned one = next_folded(folds, &ours);
        if (one == NO_FOLD || one != next_folded(folds, &theirs))
            return 0;
    }
    return !ours.size && !theirs.size;
}

static int differs(const Event *e, const int32_t *row, const Check *c, PyObject *person)
{
    Bytes ours = span(e, row, c->column), theirs = known(person, c->theirs);
    int agrees = 0;
    if (c->how == BY_BYTES || c->how == BY_FOLDED)
        agrees = c->lead == c->lead_theirs ? same(ours, theirs) : same(beyond(ours, c->lead), beyond(theirs, c->lead_theirs));
    else if (c->how != BY_CALL)
        agrees = agrees_in_form(c, ours, person);
    if (!agrees && c->how == BY_FOLDED)
        agrees = agrees_folded(e->plan, c, ours, theirs);
    return agrees ? (agrees < 0 ? -1 : 0) : call_differs(c, ours, theirs);
}

static int compare(const Event *e, const int32_t *row, const Role *role, PyObject *person, Finding *found)
{
    long bits = 0;
    for (int i = 0; i < role->checks; i++) {
        int differ = differs(e, row, role->check + i, person);
        if (differ < 0)
            return -1;
        bits |= (long)differ << i;
    }
    found->offset = register_offset(e->plan, person);
    Py_INCREF(found->kept[0] = person);
    found->verdict = bits ? MISMATCH : MATCH;
    found->head = role->match;
    if (bits) {
        PyObject *number = PyLong_FromLong(bits);
        PyObject *head = found->kept[1] = number ? PyObject_GetItem(role->heads, number) : NULL;
        Py_XDECREF(number);
        if (!head)
            return -1;
        found->head.at = (const uint8_t *)PyBytes_AsString(head);
        found->head.size = found->head.at ? PyBytes_GET_SIZE(head) : 0;
        return found->head.at ? 0 : -1;
    }
    return 0;
}

static void without_pin(const Event *e, const int32_t *row, const Role *role, Finding *found)
{
    int seen = !role->may_be_absent;
    for (int i = 0; !seen && i < role->seen; i++)
        seen = *span(e, row, role->looked_at[i]).at != 0;
    found->verdict = seen ? NO_PIN : NOBODY;
    if (seen)
        found->head = role->no_pin;
}

/* The role's person, found by the message's key for the subject, else by the PIN in the row. */
static int person_of_role(const Event *e, const Role *role, Bytes pin, PyObject **person)
{
    if (role == e->plan->role)
        return look_up(e, e->key, person);
    PyObject *value = object_of(pin), *key = value ? PyObject_GetItem(e->plan->key_of, value) : NULL;
    int answer = key ? look_up(e, key, person) : -1;
    Py_XDECREF(value), Py_XDECREF(key);
    return answer;
}

static int verify_role(const Event *e, const int32_t *row, const Role *role, Finding *found, PyObject **subject)
{
    Bytes pin = span(e, row, role->pin);
    if (pin.size < 2 + role->lead) {
        without_pin(e, row, role, found);
        return 0;
    }
    PyObject *person = NULL;
    int there = person_of_role(e, role, beyond(pin, role->lead), &person), answer = 0;
    if (there > 0) {
        int is_subject = role == e->plan->role; /* the key is the producer's word; the PIN is the row's */
        if (is_subject && !same(beyond(pin, role->lead), known(person, e->plan->register_pin)))
            answer = malformed(e->plan, NULL);
        else
            answer = compare(e, row, role, person, found);
        if (is_subject && subject)
            Py_INCREF(*subject = person);
    } else if (there == 0) {
        found->verdict = NOT_FOUND;
        found->head = role->not_found;
    } else
        answer = -1;
    Py_XDECREF(person);
    return answer;
}

/* The gravest verdict over the roles of `row` into *verdict. */
static int verify(const Event *e, const int32_t *row, Finding *found, int *verdict, PyObject **subject)
{
    *verdict = NOBODY;
    for (int i = 0; i < e->plan->roles; i++) {
        if (verify_role(e, row, e->plan->role + i, found + i, subject) < 0)
            return -1;
        *verdict = found[i].verdict > *verdict ? found[i].verdict : *verdict;
    }
    return 0;
}

static void forget(Finding *found)
{
    for (int i = 0; i < MOST_ROLES; i++) {
        Py_CLEAR(found[i].kept[0]);
        Py_CLEAR(found[i].kept[1]);
    }
}

/* What the verdict of the row before an update is, by the register as it is now. */
static int verify_before(Event *e)
{
    const Plan *plan = e->plan;
    int changed = 0;
    e->verdict_before = e->verdict;
    for (int i = 0; !changed && i < plan->verdict_columns; i++)
        changed = !same(span(e, e->was, plan->verdict_column[i]), span(e, e->now, plan->verdict_column[i]));
    if (!changed)
        return 0;
    Finding found[MOST_ROLES] = {0};
    int answer = verify(e, e->was, found, &e->verdict_before, NULL);
    forget(found);
    return answer;
}

/* -- one agreement */

static int passes(const Event *e, const int32_t *row, const Subscription *s)
{
    for (int i = 0; i < s->conditions; i++) {
        const Condition *c = s->condition + i;
        Bytes value = span(e, row, c->column);
        int k = 0;
        while (k < c->count && !same(value, c->allowed[k]))
            k++;
        if (k == c->count)
            return 0;
    }
    return 1;
}

static inline int admits(const Subscription *s, int verdict)
{
    return !s->verdicts || (verdict >= 0 && s->verdicts >> verdict & 1);
}

static int put_masked(Buffer *to, const Part *part, Bytes value)
{
    PyObject *given = object_of(value), *made = NULL;
    if (given)
        made = part->memo ? PyObject_GetItem(part->memo, given) : PyObject_CallOneArg(part->apply, given);
    Py_XDECREF(given);
    char *at;
    Py_ssize_t size;
    int answer = made && PyBytes_AsStringAndSize(made, &at, &size) == 0 ? put(to, at, size) : -1;
    Py_XDECREF(made);
    return answer;
}

static int put_of_register(const Event *e, Buffer *to, const Part *part)
{
    if (!e->person)
        return put(to, "\0", 1);
    if (!part->nullable && put(to, "\2", 1) < 0)
        return -1;
    Bytes value = known(e->person, part->first);
    return part->memo || part->apply ? put_masked(to, part, value) : put(to, value.at, value.size);
}

static void hash_bytes(Blake state, const void *value, size_t size, uint8_t out[KEY_BYTES])
{
    blake_add(&state, value, size);
    blake_end(&state, out);
}

/* A text as the agreement's pseudonym, in hexadecimal. */
static int put_pseudonym(const Subscription *s, Buffer *to, const Part *part, Bytes value)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t hash[KEY_BYTES], made[2 + 2 * KEY_BYTES] = {2, 4 * KEY_BYTES}, *at = made + 2; /* there; a length as an Avro long */
    int lead = part->nullable;
    if (lead && !*value.at)
        return put(to, "\0", 1);
    Bytes said = text(value, lead);
    if (!said.size) /* BLAKE2b ends otherwise where nothing follows the key */
        return put_masked(to, part, value);
    hash_bytes(s->hash, said.at, (size_t)said.size, hash);
    for (int i = 0; i < KEY_BYTES; i++) {
        *at++ = (uint8_t)digits[hash[i] >> 4];
        *at++ = (uint8_t)digits[hash[i] & 15];
    }
    return lead ? put(to, made, sizeof made) : put(to, made + 1, sizeof made - 1);
}

/* The projected row. */
static int project(const Event *e, const int32_t *row, const Subscription *s, Buffer *to)
{
    to->size = 0;
    for (int i = 0; i < s->parts; i++) {
        const Part *part = s->part + i;
        int answer;
        if (part->kind == OF_REGISTER)
            answer = put_of_register(e, to, part);
        else if (part->kind == PSEUDONYM)
            answer = put_pseudonym(s, to, part, span(e, row, part->first));
        else if (part->kind == MASKED)
            answer = put_masked(to, part, span(e, row, part->first));
        else
            answer = put(to, e->b + row[2 * part->first], row[2 * part->last + 1] - row[2 * part->first]);
        if (answer < 0)
            return -1;
    }
    return 0;
}

static void hash_row(const Event *e, Blake state, uint8_t out[KEY_BYTES])
{
    for (int i = 0; i < e->plan->primary; i++) {
        Bytes value = span(e, e->now, e->plan->primary_column[i]);
        blake_add(&state, value.at, (size_t)value.size);
    }
    blake_end(&state, out);
}

/* The lane's next number for this agreement, as an Avro long; its size, or -1. */
static int next_seq(const Event *e, const Subscription *s, uint8_t out[LONG_BYTES])
{
    PyObject *last = PyList_GetItem(e->seqs, s->slot);
    long long seq = last ? PyLong_AsLongLong(last) : -1;
    if (seq < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a sequence number is negative");
        return -1;
    }
    PyObject *next = PyLong_FromLongLong(++seq);
    if (!next || PyList_SetItem(e->seqs, s->slot, next) < 0)
        return -1;
    int size = 0;
    uint64_t rest = (uint64_t)seq << 1;
    for (; rest > 127; rest >>= 7)
        out[size++] = (uint8_t)(rest & 127) | 128;
    out[size++] = (uint8_t)rest;
    return size;
}

static int append(const Event *e, PyObject *topic, PyObject *value, PyObject *key)
{
    PyObject *record = value && key ? PyTuple_Pack(3, topic, value, key) : NULL;
    int answer = record ? PyList_Append(e->out, record) : -1;
    Py_XDECREF(value), Py_XDECREF(key), Py_XDECREF(record);
    return answer;
}

static uint8_t *add(uint8_t *to, const void *from, Py_ssize_t size)
{
    memcpy(to, from, (size_t)size);
    return to + size;
}

/* `verdict`: -1 for none; `data`: NULL for null. */
static int deliver(Event *e, const Subscription *s, int op, int verdict, const Buffer *data)
{
    const Plan *plan = e->plan;
    uint8_t event[KEY_BYTES], key[KEY_BYTES], row[KEY_BYTES], seq[LONG_BYTES];
    const uint8_t *id = e->b + FRAME_BYTES, *given = (const uint8_t *)PyBytes_AS_STRING(e->key);
    if (s->clear) {
        if (!e->shared_row_key)
            hash_row(e, plan->row_key, e->row_key);
        e->shared_row_key = 1;
        memcpy(row, e->row_key, sizeof row);
    } else {
        hash_bytes(s->hash, id, KEY_BYTES, event);
        hash_bytes(s->hash, given, KEY_BYTES, key);
        hash_row(e, s->row_key, row);
        id = event;
    }
    int seq_size = next_seq(e, s, seq);
    if (seq_size < 0)
        return -1;
    Bytes ts = {e->b + plan->spans[0], plan->spans[1] - plan->spans[0]};
    Py_ssize_t size = s->header.size + KEY_BYTES + seq_size + s->head.size + 1 + ts.size + KEY_BYTES;
    size += (verdict < 0 ? 1 : 2) + 1 + (data ? data->size : 0);
    PyObject *value = PyBytes_FromStringAndSize(NULL, size);
    if (!value)
        return -1;
    uint8_t *at = add((uint8_t *)PyBytes_AS_STRING(value), s->header.at, s->header.size);
    at = add(at, id, KEY_BYTES);
    at = add(at, seq, seq_size);
    at = add(at, s->head.at, s->head.size);
    *at++ = (uint8_t)op;
    at = add(at, ts.at, ts.size);
    at = add(at, row, KEY_BYTES);
    *at++ = verdict < 0 ? 0 : 2;
    if (verdict >= 0)
        *at++ = (uint8_t)(verdict << 1);
    *at++ = data ? 2 : 0;
    if (data)
        add(at, data->at, data->size);
    return append(e, s->topic, value, s->clear ? Py_NewRef(e->key) : PyBytes_FromStringAndSize((char *)key, KEY_BYTES));
}

static int on_create(Event *e, const Subscription *s)
{
    if (!passes(e, e->now, s))
        return ROW_FILTER;
    if (!admits(s, e->verdict))
        return VERDICT;
    if (project(e, e->now, s, &e->plan->fresh) < 0)
        return -1;
    return deliver(e, s, e->b[OP_AT], s->share ? e->verdict : -1, &e->plan->fresh) < 0 ? -1 : DELIVERED;
}

/* A delete is not asked for its verdict: that may have changed since the row was delivered, and the agency must learn of it. */
static int on_delete(Event *e, const Subscription *s)
{
    if (!passes(e, e->now, s))
        return ROW_FILTER;
    return deliver(e, s, OP_DELETE, s->share && admits(s, e->verdict) ? e->verdict : -1, NULL) < 0 ? -1 : DELIVERED;
}

static int on_update(Event *e, const Subscription *s)
{
    Buffer *fresh = &e->plan->fresh, *old = &e->plan->old;
    int matches = passes(e, e->now, s), matched = passes(e, e->was, s);
    int seen = matched && admits(s, e->verdict_before), op = OP_CREATE;
    if (!matches || !admits(s, e->verdict)) {
        if (seen)
            return deliver(e, s, OP_WITHDRAW, -1, NULL) < 0 ? -1 : DELIVERED;
        return s->verdicts && (matches || matched) ? VERDICT : ROW_FILTER;
    }
    if (project(e, e->now, s, fresh) < 0)
        return -1;
    if (seen) {
        if (project(e, e->was, s, old) < 0)
            return -1;
        int alike = fresh->size == old->size && !memcmp(fresh->at, old->at, (size_t)fresh->size);
        if (alike && (!s->share || e->verdict == e->verdict_before))
            return INVISIBLE;
        op = OP_UPDATE;
    }
    return deliver(e, s, op, s->share ? e->verdict : -1, fresh) < 0 ? -1 : DELIVERED;
}

/* -- the whole event */

static int check_images(Event *e, const uint8_t *branches)
{
    const Plan *plan = e->plan;
    int before = branches[0], after = branches[1];
    if (e->op == OP_DELETE) {
        if (!before || after)
            return malformed(plan, NULL);
        e->now = e->was;
        return 0;
    }
    if (!after || before != (e->op == OP_UPDATE))
        return malformed(plan, NULL);
    if (e->op != OP_UPDATE)
        return 0;
    if (plan->pin >= 0) { /* capture makes two events of a change of the person, or of the row */
        Bytes was = span(e, e->was, plan->pin), now = span(e, e->now, plan->pin);
        if (!same(was, now) && (was.size >= plan->shortest_pin || now.size >= plan->shortest_pin))
            return malformed(plan, NULL);
    }
    for (int i = 0; i < plan->primary; i++)
        if (!same(span(e, e->was, plan->primary_column[i]), span(e, e->now, plan->primary_column[i])))
            return malformed(plan, NULL);
    return 0;
}

static int open_event(Event *e, PyObject *value)
{
    Plan *plan = e->plan;
    uint8_t branches[2] = {0, 0};
    char *at = NULL;
    if (value != Py_None && PyBytes_AsStringAndSize(value, &at, &e->size) < 0)
        return -1;
    e->b = (const uint8_t *)at;
    if (!at || e->size < FRAME_BYTES || e->b[0])
        return malformed(plan, plan->bad_frame);
    if (e->size > plan->max_bytes)
        return malformed(plan, plan->too_large);
    if (memcmp(e->b, plan->header.at, FRAME_BYTES))
        return malformed(plan, plan->unknown_schema);
    if (!PyBytes_Check(e->key) || PyBytes_GET_SIZE(e->key) != KEY_BYTES)
        return malformed(plan, NULL);
    if (walk(plan->steps, plan->step_count, e->b, e->size, FRAME_BYTES, plan->spans, branches) < 0)
        return malformed(plan, NULL);
    e->op = e->b[OP_AT];
    e->was = plan->spans + 2;
    e->now = e->was + 2 * plan->columns;
    return check_images(e, branches);
}

/* What is the same for all events of a batch: which agreements are in force, and the outcomes of an event none of them gets. */
static int read_force(Plan *plan, PyObject *force)
{
    if (plan->force == force)
        return 0;
    Py_CLEAR(plan->force);
    memset(plan->in_force, 0, (size_t)plan->words * sizeof(uint64_t));
    for (int i = 0; i < plan->subscriptions; i++) {
        PyObject *found = PySequence_GetItem(force, plan->subscription[i].slot);
        int holds = found ? PyObject_IsTrue(found) : -1;
        Py_XDECREF(found);
        if (holds < 0)
            return -1;
        if (holds)
            put_in(plan->in_force, i);
        plan->unasked[1 + i] = holds ? ROW_FILTER : NOT_IN_FORCE;
    }
    if (PyTuple_CheckExact(force)) /* what cannot change need not be read again */
        plan->force = Py_NewRef(force);
    return 0;
}

static int ask_of_value(Plan *plan, const Index *index, Bytes value)
{
    PyObject *key = object_of(value), *numbers = key ? PyDict_GetItemWithError(index->of_value, key) : NULL;
    Py_XDECREF(key);
    if (!numbers)
        return PyErr_Occurred() ? -1 : 0;
    char *at;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(numbers, &at, &size) < 0)
        return -1;
    for (; size >= (Py_ssize_t)sizeof(int32_t); size -= (Py_ssize_t)sizeof(int32_t), at += sizeof(int32_t)) {
        int32_t i;
        memcpy(&i, at, sizeof i);
        if (i >= 0 && i < plan->subscriptions)
            put_in(plan->asked, i);
    }
    return 0;
}

/* The agreements whose filter may let the row before or after through, of those in force. */
static int ask(Event *e)
{
    Plan *plan = e->plan;
    memcpy(plan->asked, plan->always, (size_t)plan->words * sizeof(uint64_t));
    for (int i = 0; i < plan->indexes; i++) {
        const Index *index = plan->index + i;
        Bytes now = span(e, e->now, index->column), was = span(e, e->was, index->column);
        if (ask_of_value(plan, index, now) < 0 || (e->op == OP_UPDATE && !same(now, was) && ask_of_value(plan, index, was) < 0))
            return -1;
    }
    for (int i = 0; i < plan->words; i++)
        plan->asked[i] &= plan->in_force[i];
    return 0;
}

static PyObject *share_out(Event *e)
{
    Plan *plan = e->plan;
    if (read_force(plan, e->force) < 0 || ask(e) < 0)
        return NULL;
    uint8_t *tally = plan->tally;
    memcpy(tally, plan->unasked, 1 + (size_t)plan->subscriptions);
    *tally = (uint8_t)(e->verdict + 1);
    for (int word = 0; word < plan->words; word++)
        for (uint64_t left = plan->asked[word]; left; left &= left - 1) {
            int i = 64 * word + __builtin_ctzll(left);
            const Subscription *s = plan->subscription + i;
            int outcome = e->op == OP_UPDATE ? on_update(e, s) : e->op == OP_DELETE ? on_delete(e, s) : on_create(e, s);
            if (outcome < 0)
                return NULL;
            tally[1 + i] = (uint8_t)outcome;
        }
    return PyBytes_FromStringAndSize((const char *)tally, 1 + plan->subscriptions);
}

/* The change event's own bytes, then what was found out. */
static int append_verified(const Event *e, const Finding *found, PyObject *tally)
{
    const Plan *plan = e->plan;
    Buffer *to = &e->plan->verified;
    char *at;
    Py_ssize_t size;
    int there = 0;
    for (int i = 0; i < plan->roles; i++)
        there += found[i].verdict != NOBODY;
    uint8_t count = (uint8_t)(there << 1);
    to->size = 0;
    if (put(to, plan->verified_header.at, plan->verified_header.size) || put(to, e->b + FRAME_BYTES, e->size - FRAME_BYTES) ||
        (plan->roles && put(to, &count, 1)))
        return -1;
    for (int i = 0; i < plan->roles; i++)
        if (put(to, found[i].head.at, found[i].head.size) || put(to, found[i].offset.at, found[i].offset.size))
            return -1;
    PyObject *decisions = PyObject_GetItem(plan->decisions, tally);
    int bad = !decisions || PyBytes_AsStringAndSize(decisions, &at, &size) || put(to, "\0", 1) || put(to, at, size);
    Py_XDECREF(decisions);
    if (!bad && e->person) {
        const uint8_t *p = (const uint8_t *)PyBytes_AS_STRING(e->person);
        Py_ssize_t begin = (Py_ssize_t)place(p, 0) - 1;
        bad = put(to, p + begin, PyBytes_GET_SIZE(e->person) - begin);
    } else if (!bad)
        bad = put(to, "\0", 1);
    return bad ? -1 : append(e, plan->verified_topic, PyBytes_FromStringAndSize((char *)to->at, to->size), Py_NewRef(e->key));
}

static PyObject *handle(Plan *self, PyObject *const *given, Py_ssize_t count)
{
    if (count != 6 || !PyList_Check(given[3]) || !PyList_Check(given[5]))
        return PyErr_Format(PyExc_TypeError, "handle(value, key, person_of, seqs: list, force, out: list)");
    Event e = {.plan = self, .key = given[1], .person_of = given[2], .seqs = given[3], .force = given[4], .out = given[5]};
    Finding found[MOST_ROLES] = {0};
    PyObject *tally = NULL;
    if (open_event(&e, given[0]) == 0 && verify(&e, e.now, found, &e.verdict, &e.person) == 0 &&
        (e.op != OP_UPDATE || !self->minds_verdicts || verify_before(&e) == 0))
        tally = share_out(&e);
    if (tally && append_verified(&e, found, tally) < 0)
        Py_CLEAR(tally);
    forget(found);
    Py_XDECREF(e.person);
    return tally;
}

static PyObject *make(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    PyObject *given;
    if (named && PyDict_Size(named))
        return PyErr_Format(PyExc_TypeError, "Plan takes one tuple");
    if (!PyArg_ParseTuple(arguments, "O!", &PyTuple_Type, &given))
        return NULL;
    Plan *self = (Plan *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    Py_INCREF(self->given = given);
    if (read_plan(given, self) == 0 && self->roles <= MOST_ROLES)
        return (PyObject *)self;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "more than %d people in a row", MOST_ROLES);
    Py_DECREF(self);
    return NULL;
}

static void drop(Plan *self)
{
    PyTypeObject *type = Py_TYPE(self);
    free_plan(self);
    Py_XDECREF(self->given);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef plan_methods[] = {
    {"handle", (PyCFunction)(void (*)(void))handle, METH_FASTCALL, "As bus.engine.plan.Plan.handle."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot plan_slots[] = {
    {Py_tp_new, make},
    {Py_tp_dealloc, drop},
    {Py_tp_methods, plan_methods},
    {Py_tp_doc, "A dataset's whole treatment, made by bus.engine.native."},
    {0, NULL},
};

static PyType_Spec plan_spec = {"bus.engine._kernel.Plan", sizeof(Plan), 0, Py_TPFLAGS_DEFAULT, plan_slots};

static int fill_module(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&plan_spec);
    return type ? PyModule_AddObjectRef(module, "Plan", type) : -1;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill_module}, {0, NULL}};
static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_kernel", .m_doc = "The engine's hot path.", .m_slots = module_slots};

PyMODINIT_FUNC PyInit__kernel(void)
{
    return PyModuleDef_Init(&module);
}
