/* Keyed BLAKE2b (RFC 7693) with the key, and what every message begins with, taken in once: bus.core.identity's hashes.
 * A message here is one block at most in nearly all cases, so a digest is a single compression. */
#ifndef BUS_BLAKE2B_H
#define BUS_BLAKE2B_H

#include <stdint.h>
#include <string.h>

enum { BLAKE_BLOCK = 128, BLAKE_KEY_MAX = 64, BLAKE_PERSON = 16 };

typedef struct {
    uint64_t h[8];
    uint64_t taken; /* bytes compressed so far; messages stay far below 2^64 */
    uint8_t block[BLAKE_BLOCK];
    size_t filled;
} Blake;

static const uint64_t blake_iv[8] = {
    0x6a09e667f3bcc908ULL, 0xbb67ae8584caa73bULL, 0x3c6ef372fe94f82bULL, 0xa54ff53a5f1d36f1ULL,
    0x510e527fade682d1ULL, 0x9b05688c2b3e6c1fULL, 0x1f83d9abfb41bd6bULL, 0x5be0cd19137e2179ULL};

static const uint8_t blake_sigma[12][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3}};

static inline uint64_t blake_word(const uint8_t *at)
{
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | at[i];
    return word;
}

static inline uint64_t blake_turn(uint64_t word, int by)
{
    return word >> by | word << (64 - by);
}

#define BLAKE_MIX(a, b, c, d, x, y)                                   \
    v[a] += v[b] + (x), v[d] = blake_turn(v[d] ^ v[a], 32),           \
    v[c] += v[d], v[b] = blake_turn(v[b] ^ v[c], 24),                 \
    v[a] += v[b] + (y), v[d] = blake_turn(v[d] ^ v[a], 16),           \
    v[c] += v[d], v[b] = blake_turn(v[b] ^ v[c], 63)

static void blake_compress(Blake *s, int last)
{
    uint64_t m[16], v[16];
    for (int i = 0; i < 16; i++)
        m[i] = blake_word(s->block + 8 * i);
    for (int i = 0; i < 8; i++) {
        v[i] = s->h[i];
        v[i + 8] = blake_iv[i];
    }
    v[12] ^= s->taken;
    if (last)
        v[14] = ~v[14];
    for (int r = 0; r < 12; r++) {
        const uint8_t *p = blake_sigma[r];
        BLAKE_MIX(0, 4, 8, 12, m[p[0]], m[p[1]]);
        BLAKE_MIX(1, 5, 9, 13, m[p[2]], m[p[3]]);
        BLAKE_MIX(2, 6, 10, 14, m[p[4]], m[p[5]]);
        BLAKE_MIX(3, 7, 11, 15, m[p[6]], m[p[7]]);
        BLAKE_MIX(0, 5, 10, 15, m[p[8]], m[p[9]]);
        BLAKE_MIX(1, 6, 11, 12, m[p[10]], m[p[11]]);
        BLAKE_MIX(2, 7, 8, 13, m[p[12]], m[p[13]]);
        BLAKE_MIX(3, 4, 9, 14, m[p[14]], m[p[15]]);
    }
    for (int i = 0; i < 8; i++)
        s->h[i] ^= v[i] ^ v[i + 8];
}

/* The last block waits: only blake_end knows that it is the last. */
static void blake_add(Blake *s, const uint8_t *data, size_t size)
{
    while (size) {
        if (s->filled == BLAKE_BLOCK) {
            s->taken += BLAKE_BLOCK;
            blake_compress(s, 0);
            s->filled = 0;
        }
        size_t room = BLAKE_BLOCK - s->filled, part = size < room ? size : room;
        memcpy(s->block + s->filled, data, part);
        s->filled += part;
        data += part;
        size -= part;
    }
}

/* digest_bytes 1..64, key_size 1..64; person: 16 bytes. */
static void blake_begin(Blake *s, const uint8_t *key, size_t key_size, const uint8_t *person, size_t digest_bytes)
{
    uint8_t padded[BLAKE_BLOCK] = {0};
    memset(s, 0, sizeof *s);
    memcpy(s->h, blake_iv, sizeof s->h);
    s->h[0] ^= 0x01010000ULL ^ (uint64_t)key_size << 8 ^ (uint64_t)digest_bytes;
    s->h[6] ^= blake_word(person);
    s->h[7] ^= blake_word(person + 8);
    memcpy(padded, key, key_size);
    blake_add(s, padded, sizeof padded);
    s->taken = BLAKE_BLOCK; /* something always follows the key here */
    blake_compress(s, 0);
    s->filled = 0;
}

/* The first 16 bytes of the digest. `s` is used up: work on a copy. */
static void blake_end(Blake *s, uint8_t out[16])
{
    s->taken += s->filled;
    memset(s->block + s->filled, 0, BLAKE_BLOCK - s->filled);
    blake_compress(s, 1);
    for (int i = 0; i < 16; i++)
        out[i] = (uint8_t)(s->h[i / 8] >> 8 * (i % 8));
}

#endif
