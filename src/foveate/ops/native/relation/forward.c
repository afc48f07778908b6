/* Local relations, forward: what each position and its neighbours hold, side by side in memory. */
#include "map.h"

/* relu(scale * x + shift), in place. */
FV_INLINE void activate(const fv_shared *shared, float *x, int count) {
  int i = 0;
  for (; i + L <= count; i += L) {
    const fv_f y = fv_load(x + i) * fv_load(shared->scale + i) + fv_load(shared->shift + i);
    fv_store(x + i, fv_max((fv_f){0}, y)); /* NaN stays */
  }
  for (; i < count; ++i) {
    const float y = x[i] * shared->scale[i] + shared->shift[i];
    x[i] = y < 0 ? 0 : y;
  }
}

static void write(const fv_arguments *a, const fv_sizes *s, const fv_workspace *w,
                  const fv_shared *shared, int64_t image, int64_t y, int64_t x) {
  char *out = (char *)a->out + place_of(a, image, y, x) * s->size * s->bytes;
  float *to = s->storage == STORAGE_FLOAT32 ? (float *)out : w->related;
  relate(a, s, w, &shared->taps, image, y, x, to);
  if (a->scale) activate(shared, to, s->size);
  if (s->storage != STORAGE_FLOAT32) fv_write_numbers(s->storage, to, out, s->size);
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(relation_forward)(const fv_arguments *a) {
  check_arguments(a);
  const fv_sizes sizes = sizes_of(a), *s = &sizes;
  if (s->rows == 0) return 0;
  assert(a->out);
  fv_shared shared;
  fv_workspace sketch;
  fv_arena common = {0}, own = {0};
  plan_shared(&shared, &common, a, s);
  plan(&sketch, &own, s);
  float *memory = fv_alloc(common.used + (size_t)s->threads * own.used);
  if (!memory) return 1;
  fv_expect_writes(a->out, (size_t)(s->rows * a->width * s->size * s->bytes));
  common = (fv_arena){memory, 0};
  plan_shared(&shared, &common, a, s);
  fill_shared(&shared, a, s);

#pragma omp parallel num_threads(s->threads)
  {
    fv_workspace w;
    fv_arena arena = {memory + common.used + (size_t)fv_thread() * own.used, 0};
    plan(&w, &arena, s);
    memset(w.zeros, 0, sizeof(float) * (size_t)s->dim);
    const fv_range rows = fv_split(s->rows, fv_threads(), fv_thread());
    for (int64_t row = rows.begin; row < rows.end; ++row)
      for (int64_t x = 0; x < a->width; ++x)
        write(a, s, &w, &shared, row / a->height, row % a->height, x);
  }
  fv_free(memory);
  return 0;
}
