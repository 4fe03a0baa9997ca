/* A compiled plan as the kernel holds it, and how it is read from what bus.engine.native hands over. */
#ifndef BUS_PLAN_H
#define BUS_PLAN_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "blake2b.h"
#include "walk.h"

enum { KEY_BYTES = 16, FRAME_BYTES = 5, OP_AT = FRAME_BYTES + KEY_BYTES, SECRET_BYTES = 32 };
enum { OP_CREATE = 0, OP_UPDATE = 2, OP_DELETE = 4, OP_WITHDRAW = 8 };
enum Outcome { DELIVERED, ROW_FILTER, VERDICT, INVISIBLE, NOT_IN_FORCE, OUTCOMES };
enum Compare { BY_BYTES, BY_ISO_DATE, BY_YEAR, BY_CALL, BY_FOLDED };
enum { FOLDS = 0x2000, NO_FOLD = 0xFFFF };
enum PartKind { OF_ROW, MASKED, OF_REGISTER, PSEUDONYM };
enum { MATCH, NO_PIN, NOT_FOUND, MISMATCH, NOBODY = -1 };

typedef struct {
    const uint8_t *at;
    Py_ssize_t size;
} Bytes; /* borrowed from an object that the plan keeps alive */

typedef struct {
    int column, lead, theirs, lead_theirs, how, paired;
    PyObject *differs; /* a callable, or if paired a memory of pairs */
    PyObject *form;    /* BY_ISO_DATE, BY_YEAR: a memory from our value to the register's text */
} Check;

typedef struct {
    int pin, lead, may_be_absent, checks, seen;
    const int32_t *looked_at; /* columns that show that somebody is there */
    Check *check;
    Bytes no_pin, not_found, match;
    PyObject *heads; /* memory: differing fields as bits -> head */
} Role;

typedef struct {
    int kind, first, last, nullable;
    PyObject *memo, *apply; /* at most one of them */
} Part;

typedef struct {
    int column, count;
    Bytes *allowed;
} Condition;

typedef struct {
    int slot, share, clear, verdicts, parts, conditions;
    PyObject *topic;
    Bytes header, head; /* the frame; agreement and grant hash */
    Blake hash, row_key;
    Part *part;
    Condition *condition;
} Subscription;

/* Agreements whose filter begins with this column: its value -> their numbers, as int32 in a bytes object. */
typedef struct {
    int column;
    PyObject *of_value;
} Index;

typedef struct {
    uint8_t *at;
    Py_ssize_t size, room;
} Buffer;

typedef struct {
    PyObject_HEAD
    PyObject *given; /* what was handed over: everything borrowed lives in it */
    Step *steps;
    int step_count, columns, roles, subscriptions, indexes, words, register_columns, register_pin, minds_verdicts;
    int primary, verdict_columns, pin, shortest_pin; /* counts; pin: -1 where rows are of nobody */
    const int32_t *primary_column, *verdict_column;
    Py_ssize_t max_bytes;
    Bytes header, verified_header, folds; /* folds: FOLDS x uint16, a character's case-folded form or NO_FOLD */
    PyObject *verified_topic, *malformed, *bad_frame, *too_large, *unknown_schema, *key_of, *decisions;
    Blake row_key;
    Role *role;
    Subscription *subscription;
    Index *index;
    uint64_t *always, *in_force, *asked; /* sets of agreements: those in no index; those in force; those to try for this event */
    PyObject *force;                     /* the tuple that `in_force` and `unasked` are of, or NULL */
    uint8_t *unasked, *tally;            /* the tally of an event that no filter lets through; this event's */
    int32_t *spans; /* slot 0: source.ts_ms; then the columns before, then those after */
    Buffer fresh, old, verified;
} Plan;

/* -- reading: every function returns 0, or -1 with an exception set */

static PyObject *item(PyObject *tuple, Py_ssize_t i)
{
    if (!PyTuple_Check(tuple) || i >= PyTuple_GET_SIZE(tuple)) {
        PyErr_SetString(PyExc_TypeError, "a plan for the kernel is incomplete");
        return NULL;
    }
    return PyTuple_GET_ITEM(tuple, i);
}

static int read_int(PyObject *tuple, Py_ssize_t i, int *to)
{
    PyObject *found = item(tuple, i);
    long value = found ? PyLong_AsLong(found) : -1;
    *to = (int)value;
    return found && !(value == -1 && PyErr_Occurred()) ? 0 : -1;
}

static int read_bytes(PyObject *tuple, Py_ssize_t i, Bytes *to)
{
    char *at;
    PyObject *found = item(tuple, i);
    if (!found || PyBytes_AsStringAndSize(found, &at, &to->size) < 0)
        return -1;
    to->at = (const uint8_t *)at;
    return 0;
}

/* An array of 32-bit numbers that lie in a bytes object. */
static int read_numbers(PyObject *tuple, Py_ssize_t i, const int32_t **to, int *count)
{
    Bytes found;
    if (read_bytes(tuple, i, &found) < 0)
        return -1;
    *to = (const int32_t *)(const void *)found.at;
    *count = (int)(found.size / (Py_ssize_t)sizeof(int32_t));
    return 0;
}

/* Room for one struct for each item of the tuple at `i`. */
static int read_array(PyObject *tuple, Py_ssize_t i, PyObject **items, int *count, size_t size, void **to)
{
    *items = item(tuple, i);
    if (!*items)
        return -1;
    if (!PyTuple_Check(*items)) {
        PyErr_SetString(PyExc_TypeError, "a plan for the kernel has something else where a tuple must be");
        return -1;
    }
    *count = (int)PyTuple_GET_SIZE(*items);
    *to = PyMem_Calloc((size_t)*count + 1, size);
    if (!*to)
        PyErr_NoMemory();
    return *to ? 0 : -1;
}

static int read_object(PyObject *tuple, Py_ssize_t i, PyObject **to)
{
    *to = item(tuple, i);
    if (*to == Py_None)
        *to = NULL;
    return *to || !PyErr_Occurred() ? 0 : -1;
}

/* (secret, person, what every message begins with) */
static int read_blake(PyObject *tuple, Py_ssize_t i, Blake *to)
{
    PyObject *found = item(tuple, i);
    Bytes secret, person, begin;
    if (!found || found == Py_None)
        return found ? 0 : -1;
    if (read_bytes(found, 0, &secret) < 0 || read_bytes(found, 1, &person) < 0 || read_bytes(found, 2, &begin) < 0)
        return -1;
    if (secret.size < 1 || secret.size > BLAKE_KEY_MAX || person.size != BLAKE_PERSON) {
        PyErr_SetString(PyExc_ValueError, "a secret or a hash's name is of the wrong length");
        return -1;
    }
    blake_begin(to, secret.at, (size_t)secret.size, person.at, KEY_BYTES);
    blake_add(to, begin.at, (size_t)begin.size);
    return 0;
}

static int read_role(PyObject *from, Role *to)
{
    PyObject *checks;
    if (read_int(from, 0, &to->pin) || read_int(from, 1, &to->lead) || read_int(from, 2, &to->may_be_absent) ||
        read_numbers(from, 3, &to->looked_at, &to->seen) || read_bytes(from, 4, &to->no_pin) ||
        read_bytes(from, 5, &to->not_found) || read_bytes(from, 6, &to->match) || read_object(from, 7, &to->heads) ||
        read_array(from, 8, &checks, &to->checks, sizeof(Check), (void **)&to->check))
        return -1;
    for (int i = 0; i < to->checks; i++) {
        Check *c = to->check + i;
        PyObject *one = PyTuple_GET_ITEM(checks, i);
        if (read_int(one, 0, &c->column) || read_int(one, 1, &c->lead) || read_int(one, 2, &c->theirs) ||
            read_int(one, 3, &c->lead_theirs) || read_int(one, 4, &c->how) || read_int(one, 5, &c->paired) ||
            read_object(one, 6, &c->differs) || read_object(one, 7, &c->form))
            return -1;
    }
    return 0;
}

static int read_condition(PyObject *from, Condition *to)
{
    PyObject *allowed;
    if (read_int(from, 0, &to->column) || read_array(from, 1, &allowed, &to->count, sizeof(Bytes), (void **)&to->allowed))
        return -1;
    for (int i = 0; i < to->count; i++)
        if (read_bytes(allowed, i, to->allowed + i))
            return -1;
    return 0;
}

static int read_subscription(PyObject *from, Subscription *to)
{
    PyObject *parts, *conditions;
    if (read_int(from, 0, &to->slot) || read_object(from, 1, &to->topic) || read_bytes(from, 2, &to->header) ||
        read_bytes(from, 3, &to->head) || read_int(from, 4, &to->share) || read_int(from, 5, &to->verdicts) ||
        read_int(from, 6, &to->clear) || read_blake(from, 7, &to->hash) || read_blake(from, 8, &to->row_key) ||
        read_array(from, 9, &conditions, &to->conditions, sizeof(Condition), (void **)&to->condition) ||
        read_array(from, 10, &parts, &to->parts, sizeof(Part), (void **)&to->part))
        return -1;
    for (int i = 0; i < to->conditions; i++)
        if (read_condition(PyTuple_GET_ITEM(conditions, i), to->condition + i))
            return -1;
    for (int i = 0; i < to->parts; i++) {
        Part *p = to->part + i;
        PyObject *one = PyTuple_GET_ITEM(parts, i);
        if (read_int(one, 0, &p->kind) || read_int(one, 1, &p->first) || read_int(one, 2, &p->last) ||
            read_int(one, 3, &p->nullable) || read_object(one, 4, &p->memo) || read_object(one, 5, &p->apply))
            return -1;
    }
    return 0;
}

static inline void put_in(uint64_t *set, int32_t i)
{
    set[i / 64] |= (uint64_t)1 << i % 64;
}

/* What says which agreements are tried at all. */
static int read_indexes(PyObject *from, Plan *to)
{
    PyObject *indexes;
    const int32_t *always;
    int count;
    to->words = to->subscriptions / 64 + 1;
    to->always = PyMem_Calloc(3 * (size_t)to->words, sizeof(uint64_t));
    to->unasked = PyMem_Calloc(2 * (1 + (size_t)to->subscriptions), 1);
    if (!to->always || !to->unasked) {
        PyErr_NoMemory();
        return -1;
    }
    to->tally = to->unasked + 1 + to->subscriptions;
    to->in_force = to->always + to->words;
    to->asked = to->in_force + to->words;
    if (read_numbers(from, 22, &always, &count) < 0 ||
        read_array(from, 23, &indexes, &to->indexes, sizeof(Index), (void **)&to->index) < 0)
        return -1;
    for (int i = 0; i < count; i++)
        if (always[i] >= 0 && always[i] < to->subscriptions)
            put_in(to->always, always[i]);
    for (int i = 0; i < to->indexes; i++) {
        PyObject *one = PyTuple_GET_ITEM(indexes, i);
        if (read_int(one, 0, &to->index[i].column) || read_object(one, 1, &to->index[i].of_value))
            return -1;
    }
    return 0;
}

static int read_plan(PyObject *from, Plan *to)
{
    PyObject *roles, *subscriptions;
    const int32_t *steps;
    int numbers, most;
    if (read_numbers(from, 0, &steps, &numbers) || read_int(from, 1, &to->columns) || read_int(from, 2, &most) ||
        read_bytes(from, 3, &to->header) || read_bytes(from, 4, &to->verified_header) ||
        read_object(from, 5, &to->verified_topic) || read_object(from, 6, &to->malformed) ||
        read_object(from, 7, &to->bad_frame) || read_object(from, 8, &to->too_large) ||
        read_object(from, 9, &to->unknown_schema) || read_int(from, 10, &to->pin) || read_int(from, 11, &to->shortest_pin) ||
        read_numbers(from, 12, &to->primary_column, &to->primary) || read_int(from, 13, &to->register_columns) ||
        read_int(from, 14, &to->register_pin) || read_object(from, 15, &to->key_of) ||
        read_numbers(from, 16, &to->verdict_column, &to->verdict_columns) || read_int(from, 17, &to->minds_verdicts) ||
        read_object(from, 18, &to->decisions) || read_blake(from, 19, &to->row_key) ||
        read_array(from, 20, &roles, &to->roles, sizeof(Role), (void **)&to->role) ||
        read_array(from, 21, &subscriptions, &to->subscriptions, sizeof(Subscription), (void **)&to->subscription))
        return -1;
    if (read_indexes(from, to) < 0 || read_bytes(from, 24, &to->folds) < 0)
        return -1;
    if (to->folds.size != FOLDS * (Py_ssize_t)sizeof(uint16_t)) {
        PyErr_SetString(PyExc_ValueError, "the table of folded characters is of the wrong length");
        return -1;
    }
    to->max_bytes = most;
    to->step_count = numbers / 4;
    to->steps = PyMem_Calloc((size_t)to->step_count + 1, sizeof(Step));
    to->spans = PyMem_Calloc((size_t)(2 * to->columns + 1) * 2, sizeof(int32_t));
    if (!to->steps || !to->spans) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(to->steps, steps, (size_t)to->step_count * sizeof(Step));
    for (int i = 0; i < to->roles; i++)
        if (read_role(PyTuple_GET_ITEM(roles, i), to->role + i))
            return -1;
    for (int i = 0; i < to->subscriptions; i++)
        if (read_subscription(PyTuple_GET_ITEM(subscriptions, i), to->subscription + i))
            return -1;
    return 0;
}

static void free_plan(Plan *plan)
{
    for (int i = 0; plan->role && i < plan->roles; i++)
        PyMem_Free(plan->role[i].check);
    for (int i = 0; plan->subscription && i < plan->subscriptions; i++) {
        Subscription *s = plan->subscription + i;
        for (int k = 0; s->condition && k < s->conditions; k++)
            PyMem_Free(s->condition[k].allowed);
        PyMem_Free(s->condition);
        PyMem_Free(s->part);
    }
    PyMem_Free(plan->role);
    PyMem_Free(plan->subscription);
    PyMem_Free(plan->index);
    PyMem_Free(plan->always);
    PyMem_Free(plan->unasked);
    Py_XDECREF(plan->force);
    PyMem_Free(plan->steps);
    PyMem_Free(plan->spans);
    PyMem_Free(plan->fresh.at);
    PyMem_Free(plan->old.at);
    PyMem_Free(plan->verified.at);
}

#endif
