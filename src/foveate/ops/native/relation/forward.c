/* Local relations, forward: what each position and its neighbours hold, side by side in memory. */
#include "map.h"

/* (taps, dim): q - k. */
FV_INLINE void differences(const fv_sizes *s, const float *q, const char *const *from, float *to) {
  for (int t = 0; t < s->count; ++t, to += s->dim) {
    const float *k = (const float *)from[t];
    int d = 0;
    for (; d + L <= s->dim; d += L) fv_store(to + d, fv_load(q + d) - fv_load(k + d));
    for (; d < s->dim; ++d) to[d] = q[d] - k[d];
  }
}

/* (dim, taps): keys, channel by channel. */
FV_INLINE void gather(const fv_sizes *s, const char *const *from, float *to) {
  int t = 0;
  for (; t + L <= s->count; t += L)
    fv_gather(STORAGE_FLOAT32, from + t, to + t, s->count, s->dim, 1.0f);
  for (; t < s->count; ++t)
    for (int d = 0; d < s->dim; ++d) to[d * s->count + t] = ((const float *)from[t])[d];
}

static void relate(const fv_arguments *a, const fv_sizes *s, const fv_workspace *w,
                   const fv_taps *taps, int64_t image, int64_t y, int64_t x) {
  char *out = (char *)a->out + place_of(a, image, y, x) * s->size * s->bytes;
  float *to = s->storage == STORAGE_FLOAT32 ? (float *)out : w->numbers;
  const float *q = fv_pixel(&a->q, image, y, x);
  const int count = fv_taps_at(taps, y, x, 0, a->height, w->taps);
  if (count < s->count)
    for (int t = 0; t < s->count; ++t) w->from[t] = (const char *)w->zeros;
  for (int i = 0; i < count; ++i)
    w->from[w->taps[i].tap] =
        (const char *)fv_pixel(&a->k, image, w->taps[i].row, w->taps[i].column);
  if (a->relation == RELATION_DIFFERENCE) {
    differences(s, q, w->from, to);
  } else {
    memcpy(to, q, sizeof(float) * (size_t)s->dim);
    gather(s, w->from, to + s->dim);
  }
  if (s->storage != STORAGE_FLOAT32) fv_write_numbers(s->storage, to, out, s->size);
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(relation_forward)(const fv_arguments *a) {
  check_arguments(a);
  const fv_sizes sizes = sizes_of(a), *s = &sizes;
  if (s->rows == 0) return 0;
  assert(a->out);
  fv_check_view(&a->q, STORAGE_FLOAT32, a->dim, true);
  fv_check_view(&a->k, STORAGE_FLOAT32, a->dim, true);
  fv_taps taps = {a->height, a->width, a->kernel_h, a->kernel_w, NULL, NULL};
  fv_workspace sketch;
  fv_arena shared = {0}, own = {0};
  fv_take_taps(&taps, &shared);
  plan(&sketch, &own, s);
  float *memory = fv_alloc(shared.used + (size_t)s->threads * own.used);
  if (!memory) return 1;
  fv_expect_writes(a->out, (size_t)(s->rows * a->width * s->size * s->bytes));
  shared = (fv_arena){memory, 0};
  fv_take_taps(&taps, &shared);
  fv_fill_taps(&taps, a->dilation_h, a->dilation_w, a->border);

#pragma omp parallel num_threads(s->threads)
  {
    fv_workspace w;
    fv_arena arena = {memory + shared.used + (size_t)fv_thread() * own.used, 0};
    plan(&w, &arena, s);
    memset(w.zeros, 0, sizeof(float) * (size_t)s->dim);
    const fv_range rows = fv_split(s->rows, fv_threads(), fv_thread());
    for (int64_t row = rows.begin; row < rows.end; ++row)
      for (int64_t x = 0; x < a->width; ++x)
        relate(a, s, &w, &taps, row / a->height, row % a->height, x);
  }
  fv_free(memory);
  return 0;
}
