/* Steps over one Avro datum and notes where the wanted fields begin and end; the semantics are bus.avro.walker's.
 * Only canonical encodings pass: shortest integers, indices in range, no negative length, valid UTF-8, booleans 0 or 1. */
#ifndef BUS_WALK_H
#define BUS_WALK_H

#include <stddef.h>
#include <stdint.h>

enum Kind { W_NULL, W_BOOLEAN, W_INT, W_LONG, W_FIXED, W_BYTES, W_STRING, W_ENUM, W_RECORD };

typedef struct {
    int32_t kind;
    int32_t arg;  /* fixed: bytes; enum: symbols; record: steps within it */
    int32_t slot; /* where to note the span, of a record its branch; -1: nowhere */
    int32_t null; /* 0: not nullable, 1: ["null", T], 2: [T, "null"] */
} Step;

enum { INT_BYTES = 5, LONG_BYTES = 10 };

/* The index after a canonical number, or -1. */
static ptrdiff_t skip_number(const uint8_t *b, ptrdiff_t size, ptrdiff_t i, int most)
{
    for (int k = 0; k < most && i < size; k++) {
        uint8_t byte = b[i++];
        if (byte >= 128)
            continue;
        if ((k && !byte) || (k == most - 1 && byte > (most == INT_BYTES ? 15 : 1)))
            return -1;
        return i;
    }
    return -1;
}

/* A length of at most what follows; *i is set after it. -1: malformed. */
static ptrdiff_t read_length(const uint8_t *b, ptrdiff_t size, ptrdiff_t *i)
{
    ptrdiff_t end = skip_number(b, size, *i, LONG_BYTES);
    if (end < 0)
        return -1;
    uint64_t twice = 0;
    for (ptrdiff_t k = end - 1; k >= *i; k--)
        twice = twice << 7 | (b[k] & 127);
    *i = end;
    if (twice & 1 || twice >> 1 > (uint64_t)(size - end))
        return -1;
    return (ptrdiff_t)(twice >> 1);
}

/* RFC 3629: no surrogates, nothing overlong, nothing beyond U+10FFFF. */
static int is_utf8(const uint8_t *s, ptrdiff_t size)
{
    ptrdiff_t i = 0;
    while (i < size) {
        uint8_t c = s[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        int more = c >= 0xC2 && c <= 0xDF ? 1 : c >= 0xE0 && c <= 0xEF ? 2 : c >= 0xF0 && c <= 0xF4 ? 3 : 0;
        if (!more || more > size - i - 1)
            return 0;
        uint8_t next = s[i + 1], least = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, most = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
        if (next < least || next > most)
            return 0;
        for (int k = 2; k <= more; k++)
            if ((s[i + k] & 0xC0) != 0x80)
                return 0;
        i += more + 1;
    }
    return 1;
}

/* The index after a value that is present, or -1. */
static ptrdiff_t skip_value(const Step *step, const uint8_t *b, ptrdiff_t size, ptrdiff_t i)
{
    ptrdiff_t n;
    switch (step->kind) {
    case W_NULL:
        return i;
    case W_BOOLEAN:
        return i < size && b[i] <= 1 ? i + 1 : -1;
    case W_INT:
        return skip_number(b, size, i, INT_BYTES);
    case W_LONG:
        return skip_number(b, size, i, LONG_BYTES);
    case W_FIXED:
        return step->arg <= size - i ? i + step->arg : -1;
    case W_BYTES:
    case W_STRING:
        n = read_length(b, size, &i);
        return n < 0 || (step->kind == W_STRING && !is_utf8(b + i, n)) ? -1 : i + n;
    case W_ENUM: /* an index is a length that may be as great as there are symbols */
        return i < size && !(b[i] & 129) && b[i] < 2 * step->arg ? i + 1 : -1;
    default:
        return -1;
    }
}

/* Walks from `i` to the very end. spans: [2 * slot] start, [2 * slot + 1] end; branches: 0 null, 1 present. 0, or -1: malformed. */
static int walk(const Step *steps, int count, const uint8_t *b, ptrdiff_t size, ptrdiff_t i, int32_t *spans, uint8_t *branches)
{
    for (int k = 0; k < count; k++) {
        const Step *step = steps + k;
        ptrdiff_t start = i;
        int there = 1;
        if (step->null) {
            if (i >= size || (b[i] != 0 && b[i] != 2))
                return -1;
            there = (b[i++] == 2) == (step->null == 1);
        }
        if (step->kind == W_RECORD) {
            if (step->slot >= 0)
                branches[step->slot] = (uint8_t)there;
            k += there ? 0 : step->arg;
            continue;
        }
        if (there && (i = skip_value(step, b, size, i)) < 0)
            return -1;
        if (step->slot >= 0) {
            spans[2 * step->slot] = (int32_t)start;
            spans[2 * step->slot + 1] = (int32_t)i;
        }
    }
    return i == size ? 0 : -1;
}

#endif
