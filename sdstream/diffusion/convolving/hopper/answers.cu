// What follows a convolution, and the answer's way to memory.

__device__ __forceinline__ float activated(float sum) {
#if ACTIVATION == 1
    return sum < 0.0f ? 0.0f : sum;  // fmaxf would make 0 of a NaN, which must show in the answer
#elif ACTIVATION == 2
    return sum / (1.0f + __expf(-sum));
#else
    return sum;
#endif
}

#define TERMS (EIGHT_BIT ? 2 : 1)

// For the block's columns the sum of both vectors, and after them, if there are any, the scales.
__device__ __forceinline__ void load_terms(
    float* terms, const value* bias, const value* more, const float* scales, int column, int columns
) {
    for (int index = threadIdx.x; index < COLUMNS; index += THREADS) {
        const bool there = column + index < columns;
        float sum = bias && there ? as_float(bias[column + index]) : 0.0f;
        if (more && there) sum += as_float(more[column + index]);
        terms[index] = sum;
#if EIGHT_BIT
        terms[COLUMNS + index] = there ? scales[column + index] : 0.0f;
#endif
    }
}

// Two sums of columns next to each other, an even one first, with their scales and vectors.
__device__ __forceinline__ float2 with_terms(float first, float second, const float* terms, int column) {
    const float2 bias = *reinterpret_cast<const float2*>(terms + column);
#if EIGHT_BIT
    const float2 scale = *reinterpret_cast<const float2*>(terms + COLUMNS + column);
    first *= scale.x, second *= scale.y;
#endif
    return make_float2(first + bias.x, second + bias.y);
}

// Of four words each of four lanes: word i of lane k becomes word k of lane i.
__device__ __forceinline__ void exchange(word (&words)[4], int lane) {
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2) {
        const bool odd = lane & bit;
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            const int low = bit == 1 ? 2 * pair : pair;
            const word got = of_lane_across(odd ? words[low] : words[low + bit], bit);
            if (odd) words[low] = got; else words[low + bit] = got;
        }
    }
}

// A thread has two neighbouring values of each eight columns, for a pixel of two lines: four lanes next to each other
// exchange theirs, so that each reads and writes eight in a row.
__device__ __forceinline__ void finish(
    Sums& sums, const float* terms, const value* residual, value* out, Tile tile, int height, int width, int column,
    int columns, int group
) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int first_block = group / GROUPS_OF_COLUMNS * GROUP_BLOCKS;
    const int inside = group % GROUPS_OF_COLUMNS * GROUP_COLUMNS;  // of the block's columns
#pragma unroll
    for (int block = 0; block < GROUP_BLOCKS; ++block) {
        const int number = first_block + block;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int y = tile.top + number / BLOCKS_ACROSS * 8 + warp * 2 + half;
            const int at = tile.left + number % BLOCKS_ACROSS * 8 + lane / 4;
            const bool there = y < height && at < width;
            const long long pixel = static_cast<long long>(tile.sample * height + y) * width + at;
#if GROUP_COLUMNS < 32
            value* row = out + pixel * columns;
#pragma unroll
            for (int index = 0; index < GROUP_COLUMNS / 4; ++index) {
                const int to = column + inside + index / 2 * 8 + lane % 4 * 2 + index % 2;
                if (there && to < columns) {
                    float sum = sums[block][index / 2 * 4 + half * 2 + index % 2] + terms[to - column];
#if RESIDUAL
                    sum += as_float(residual[pixel * columns + to]);
#endif
                    row[to] = packed(activated(sum), 0.0f);
                }
            }
#else
            const long long row = pixel * columns + column + inside;
#pragma unroll
            for (int four = 0; four < GROUP_COLUMNS / 32; ++four) {
                const long long place = row + four * 32 + lane % 4 * 8;
                word words[4];
#if RESIDUAL
                const uint4 more =
                    there ? *reinterpret_cast<const uint4*>(residual + place) : make_uint4(0, 0, 0, 0);
                words[0] = more.x, words[1] = more.y, words[2] = more.z, words[3] = more.w;
                exchange(words, lane);
#endif
#pragma unroll
                for (int eight = 0; eight < 4; ++eight) {
                    const int to = four * 32 + eight * 8;
                    const float* two = &sums[block][to / 2 + half * 2];
                    float2 sum = with_terms(two[0], two[1], terms, inside + to + lane % 4 * 2);
#if RESIDUAL
                    sum.x += as_float(words[eight] & 0xFFFF);
                    sum.y += as_float(words[eight] >> 16);
#endif
                    words[eight] = packed(activated(sum.x), activated(sum.y));
                }
                exchange(words, lane);
                if (there) {
                    *reinterpret_cast<uint4*>(out + place) = make_uint4(words[0], words[1], words[2], words[3]);
                }
            }
#endif
        }
    }
}

#if PARTS > 1
// Blocks of a cluster have a part of each sum. All lie in their shared memory, one for each pixel of the tile's blocks,
// with columns swizzled eight by eight.
__device__ __forceinline__ int place_in_parts(int pixel, int column) {
    return pixel * COLUMNS + (column ^ pixel % 8 * 8);
}

__device__ __forceinline__ void keep_part(Sums& sums, int group) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    float* kept = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int block = 0; block < GROUP_BLOCKS; ++block) {
        const int number = group / GROUPS_OF_COLUMNS * GROUP_BLOCKS + block;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int pixel = number * 64 + (warp * 2 + half) * 8 + lane / 4;
#pragma unroll
            for (int eight = 0; eight < GROUP_COLUMNS / 8; ++eight) {
                const int column = group % GROUPS_OF_COLUMNS * GROUP_COLUMNS + eight * 8 + lane % 4 * 2;
                const float* two = &sums[block][eight * 4 + half * 2];
                *reinterpret_cast<float2*>(kept + place_in_parts(pixel, column)) = make_float2(two[0], two[1]);
            }
        }
    }
}

// Each block adds the parts of its share of the tile, always in the same order, and does what follows.
__device__ __forceinline__ void add_parts(
    const float* terms, const value* residual, value* out, Tile tile, int height, int width, int column, int columns
) {
    const int all = BLOCKS * 64 * COLUMNS / 4, share = (all + PARTS - 1) / PARTS, part = blockIdx.z;
    const int end = min(all, (part + 1) * share);
    for (int unit = part * share + threadIdx.x; unit < end; unit += 128 * GROUPS) {
        const int pixel = unit / (COLUMNS / 4), inside = unit % (COLUMNS / 4) * 4, number = pixel / 64;
        const word place = shared_address(shared) + 4 * place_in_parts(pixel, inside);
        float4 parts[PARTS];
#pragma unroll
        for (int block = 0; block < PARTS; ++block) parts[block] = of_block(place, block);
        float4 sum = parts[0];
#pragma unroll
        for (int block = 1; block < PARTS; ++block) {
            sum.x += parts[block].x, sum.y += parts[block].y;
            sum.z += parts[block].z, sum.w += parts[block].w;
        }
        float2 low = with_terms(sum.x, sum.y, terms, inside), high = with_terms(sum.z, sum.w, terms, inside + 2);
        const int y = tile.top + number / BLOCKS_ACROSS * 8 + pixel / 8 % 8;
        const int at = tile.left + number % BLOCKS_ACROSS * 8 + pixel % 8;
        if (y >= height || at >= width || column + inside >= columns) continue;
        const long long to =
            (static_cast<long long>(tile.sample * height + y) * width + at) * columns + column + inside;
#if RESIDUAL
        const uint2 more = *reinterpret_cast<const uint2*>(residual + to);
        low.x += as_float(more.x & 0xFFFF), low.y += as_float(more.x >> 16);
        high.x += as_float(more.y & 0xFFFF), high.y += as_float(more.y >> 16);
#endif
        *reinterpret_cast<uint2*>(out + to) =
            make_uint2(packed(activated(low.x), activated(low.y)), packed(activated(high.x), activated(high.y)));
    }
}
#endif
