/* The slide kernels for one instruction set. Included once a set by slide.c, which defines
 *   LANES      floats in one vector
 *   NAME(x)    x with the set's suffix
 *   TARGET     the function attribute that selects the set
 *   TAP_BLOCK  taps whose weight gradients stay in registers at once
 *
 * A block of R rows and C columns of one image and head is packed channel by channel into planes
 * of pitch P = C + kw - 1, keys and values with their halo, so that sixteen (LANES) consecutive
 * plane positions are one vector of queries and a tap is a constant offset. Queries in the pitch
 * columns beyond C are zero and never leave the block.
 *
 * Slots are taken GROUP at a time; weights are packed [group][D][taps + 1][GROUP], the bias being
 * one more tap.
 */

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define vec NAME(vec)
#define ivec NAME(ivec)
#define uvec NAME(uvec)
#define INLINE static inline __attribute__((always_inline)) TARGET

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float uvec __attribute__((vector_size(4 * LANES), aligned(4)));

#define LOAD(p) (*(const uvec *)(p))
#define STORE(p, x) (*(uvec *)(p) = (x))

INLINE vec NAME(select)(ivec mask, vec yes, vec no) {
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

/* exp(x) for x <= 0, NaN kept; relative error below 2e-7. */
INLINE vec NAME(exp_negative)(vec x) {
    const vec zero = {0};
    x = NAME(select)(x < zero - 87.0f, zero - 87.0f, x);
    vec shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
    vec n = shifted - 12582912.0f;
    vec f = x - n * 0.693359375f;
    f = f + n * 2.12194440e-4f;
    vec p = zero + 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    ivec power = ((ivec)shifted << 23) + (127 << 23);
    return p * (vec)power;
}

/* scores[slot] = sum over channels and taps of (a * x shifted by the tap) * weight. */
INLINE void NAME(scores_block)(const struct block *b, const float *a, const float *x,
                               const float *weights, float *scores, int taps) {
    for (int group = 0; group < b->groups; group++) {
        const float *w_group = weights + (int64_t)group * b->depth * (taps + 1) * GROUP;
        for (int64_t i = 0; i < b->queries; i += LANES) {
            vec sum[GROUP] = {{0}};
            for (int d = 0; d < b->depth; d++) {
                const float *w = w_group + (int64_t)d * (taps + 1) * GROUP;
                const float *plane = x + d * b->halo_plane + i;
                vec query = LOAD(a + d * b->plane + i);
                for (int j = 0; j < taps; j++) {
                    vec product = query * LOAD(plane + b->offset[j]);
                    for (int n = 0; n < GROUP; n++) sum[n] += product * w[j * GROUP + n];
                }
                for (int n = 0; n < GROUP; n++) sum[n] += query * w[taps * GROUP + n];
            }
            for (int n = 0; n < GROUP; n++)
                if (group * GROUP + n < b->slots)
                    STORE(scores + (group * GROUP + n) * b->plane + i, sum[n]);
        }
    }
}

/* y += sum over slots of p[slot] * (sum over taps of weight * x shifted + bias), and with `scatter`
 * dx shifted += (sum over slots of p[slot] * weight) * a. */
INLINE void NAME(mix_block)(const struct block *b, const float *p, const float *x,
                            const float *weights, float *y, const float *a, float *dx, int taps,
                            bool gather, bool scatter) {
    for (int group = 0; group < b->groups; group++) {
        const float *w_group = weights + (int64_t)group * b->depth * (taps + 1) * GROUP;
        for (int64_t i = 0; i < b->queries; i += LANES) {
            vec slot[GROUP] = {{0}};
            for (int n = 0; n < GROUP; n++)
                if (group * GROUP + n < b->slots)
                    slot[n] = LOAD(p + (group * GROUP + n) * b->plane + i);
            for (int d = 0; d < b->depth; d++) {
                const float *w = w_group + (int64_t)d * (taps + 1) * GROUP;
                const int64_t at = d * b->halo_plane + i;
                vec sum = {0}, query = {0};
                if (gather) {
                    for (int n = 0; n < GROUP; n++) sum += slot[n] * w[taps * GROUP + n];
                    if (group) sum += LOAD(y + d * b->plane + i);
                }
                if (scatter) query = LOAD(a + d * b->plane + i);
                for (int j = 0; j < taps; j++) {
                    vec blend = slot[0] * w[j * GROUP];
                    for (int n = 1; n < GROUP; n++) blend += slot[n] * w[j * GROUP + n];
                    if (gather) sum += blend * LOAD(x + at + b->offset[j]);
                    if (scatter) {
                        float *to = dx + at + b->offset[j];
                        STORE(to, LOAD(to) + blend * query);
                    }
                }
                if (gather) STORE(y + d * b->plane + i, sum);
            }
        }
    }
}

INLINE float NAME(lane_sum)(vec x) {
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
}

/* d_w[channel][tap][slot] += sum over queries of p[slot] * a * (x shifted by the tap), for `count`
 * taps from `first`; x null stands for the bias, whose shifted map is one everywhere. */
INLINE void NAME(weight_taps)(const struct block *b, const float *p, const float *a, const float *x,
                              float *d_w, int taps, int first, int count, int slots) {
    for (int d = 0; d < b->depth; d++) {
        vec sum[TAP_BLOCK * GROUP] = {{0}};
        const float *plane = x ? x + d * b->halo_plane : 0;
        for (int64_t i = 0; i < b->queries; i += LANES) {
            vec query = LOAD(a + d * b->plane + i), product[TAP_BLOCK];
            for (int j = 0; j < count; j++)
                product[j] = x ? query * LOAD(plane + i + b->offset[first + j]) : query;
            for (int n = 0; n < slots; n++) {
                vec probability = LOAD(p + n * b->plane + i);
                for (int j = 0; j < count; j++) sum[j * GROUP + n] += probability * product[j];
            }
        }
        float *to = d_w + ((int64_t)d * (taps + 1) + first) * GROUP;
        for (int j = 0; j < count; j++)
            for (int n = 0; n < slots; n++)
                to[j * GROUP + n] += NAME(lane_sum)(sum[j * GROUP + n]);
    }
}

INLINE void NAME(weight_block)(const struct block *b, const float *p, const float *a,
                               const float *x, float *d_weights, int taps) {
    for (int group = 0; group < b->groups; group++) {
        float *d_w = d_weights + (int64_t)group * b->depth * (taps + 1) * GROUP;
        const float *p_group = p + (int64_t)group * GROUP * b->plane;
        const int slots = b->slots - group * GROUP < GROUP ? b->slots - group * GROUP : GROUP;
        if (slots == GROUP) {
            int j = 0;
            for (; j + TAP_BLOCK <= taps; j += TAP_BLOCK)
                NAME(weight_taps)(b, p_group, a, x, d_w, taps, j, TAP_BLOCK, GROUP);
            for (; j < taps; j++) NAME(weight_taps)(b, p_group, a, x, d_w, taps, j, 1, GROUP);
            NAME(weight_taps)(b, p_group, a, 0, d_w, taps, taps, 1, GROUP);
        } else {
            for (int j = 0; j <= taps; j++)
                NAME(weight_taps)(b, p_group, a, j < taps ? x : 0, d_w, taps, j, 1, slots);
        }
    }
}

TARGET static void NAME(softmax)(const struct block *b, float *scores) {
    for (int64_t i = 0; i < b->queries; i += LANES) {
        vec top = LOAD(scores + i), total = {0};
        for (int n = 1; n < b->slots; n++) {
            vec score = LOAD(scores + n * b->plane + i);
            top = NAME(select)(score > top, score, top);
        }
        for (int n = 0; n < b->slots; n++) {
            vec part = NAME(exp_negative)(LOAD(scores + n * b->plane + i) - top);
            STORE(scores + n * b->plane + i, part);
            total += part;
        }
        vec scale = 1.0f / total;
        for (int n = 0; n < b->slots; n++) {
            float *at = scores + n * b->plane + i;
            STORE(at, LOAD(at) * scale);
        }
    }
}

/* d_scores, given as the gradient of the probabilities, becomes that of the logits. */
TARGET static void NAME(softmax_backward)(const struct block *b, const float *p, float *d_scores) {
    for (int64_t i = 0; i < b->queries; i += LANES) {
        vec mean = {0};
        for (int n = 0; n < b->slots; n++)
            mean += LOAD(p + n * b->plane + i) * LOAD(d_scores + n * b->plane + i);
        for (int n = 0; n < b->slots; n++) {
            float *at = d_scores + n * b->plane + i;
            STORE(at, LOAD(p + n * b->plane + i) * (LOAD(at) - mean));
        }
    }
}

/* The published sizes get bodies of their own: with the taps known, the loops over them unroll. */
#define BY_TAPS(call)                       \
    do {                                    \
        if (b->taps == 9) {                 \
            enum { taps = 9 };              \
            call;                           \
        } else {                            \
            const int taps = b->taps;       \
            call;                           \
        }                                   \
    } while (0)

TARGET static void NAME(scores)(const struct block *b, const float *a, const float *x,
                                const float *w, float *scores) {
    BY_TAPS(NAME(scores_block)(b, a, x, w, scores, taps));
}

TARGET static void NAME(mix)(const struct block *b, const float *p, const float *x, const float *w,
                             float *y) {
    BY_TAPS(NAME(mix_block)(b, p, x, w, y, 0, 0, taps, true, false));
}

TARGET static void NAME(mix_scatter)(const struct block *b, const float *p, const float *x,
                                     const float *w, float *y, const float *a, float *dx) {
    BY_TAPS(NAME(mix_block)(b, p, x, w, y, a, dx, taps, true, true));
}

TARGET static void NAME(scatter)(const struct block *b, const float *p, const float *w,
                                 const float *a, float *dx) {
    BY_TAPS(NAME(mix_block)(b, p, 0, w, 0, a, dx, taps, false, true));
}

TARGET static void NAME(weight_gradient)(const struct block *b, const float *p, const float *a,
                                         const float *x, float *d_w) {
    BY_TAPS(NAME(weight_block)(b, p, a, x, d_w, taps));
}

static const struct kernels NAME(kernels) = {
    NAME(scores),  NAME(mix),     NAME(mix_scatter),      NAME(scatter),
    NAME(weight_gradient), NAME(softmax), NAME(softmax_backward),
};

#undef vec
#undef ivec
#undef uvec
#undef INLINE
#undef LOAD
#undef STORE
#undef BY_TAPS
#undef PASTE
#undef PASTE_
