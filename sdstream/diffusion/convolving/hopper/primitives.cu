// What is written in Hopper's own instructions but the product itself, which `source.py` writes for each width.
// The tests have the same names for a processor (`tests/diffusion/hopper/emulated.h`).

typedef unsigned int word;
typedef unsigned short value;  // float16, or bfloat16
typedef unsigned long long wide_word;

extern __shared__ __align__(1024) unsigned char shared[];

__device__ __forceinline__ word shared_address(const void* pointer) {
    return static_cast<word>(__cvta_generic_to_shared(pointer));
}

// What this thread wrote itself is shown to products.
__device__ __forceinline__ void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// How a tensor lies, as the driver writes it down.
struct __align__(64) TensorMap {
    wide_word words[16];
};

__device__ __forceinline__ void make_barrier(word barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void show_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void arrive(word barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and so many bytes are to come.
__device__ __forceinline__ void expect(word barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Until a barrier has left the phase of this parity; of a new one that is 0.
__device__ __forceinline__ void wait_for(word barrier, int parity) {
    asm volatile(
        "{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; "
        "@done bra ended; bra again; ended: }" ::"r"(barrier), "r"(parity) : "memory"
    );
}

// A box of a map, from these coordinates on, into shared memory; zeros where nothing lies.
__device__ __forceinline__ void load_box(
    word to, const TensorMap* map, int channel, int x, int y, int z, word barrier
) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5}], [%6];"
        ::"r"(to), "l"(map), "r"(channel), "r"(x), "r"(y), "r"(z), "r"(barrier) : "memory"
    );
}

// The same to memory; what lies outside is left out.
__device__ __forceinline__ void store_box(const TensorMap* map, int channel, int x, int y, int z, word from) {
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];"
        ::"l"(map), "r"(channel), "r"(x), "r"(y), "r"(z), "r"(from) : "memory"
    );
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// The same, of a map of pixels two by two: a number among the pixels of a line, and one among the lines.
__device__ __forceinline__ void store_doubled_box(
    const TensorMap* map, int channel, int pixel, int x, int line, int y, word from
) {
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4, %5}], [%6];"
        ::"l"(map), "r"(channel), "r"(pixel), "r"(x), "r"(line), "r"(y), "r"(from) : "memory"
    );
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until all that this thread stores has been read from shared memory.
__device__ __forceinline__ void wait_for_stores() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// Until all of a group of four warps are here.
__device__ __forceinline__ void meet_group(int group) {
    asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
}

// Four blocks of eight times eight values; lanes give the addresses of their rows, eight lanes a block.
__device__ __forceinline__ void load_blocks(word (&words)[4], word address) {
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory"
    );
}

__device__ __forceinline__ void store_blocks(word address, const word (&words)[4]) {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
        ::"r"(address), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory"
    );
}

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int left>
__device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}

// A matrix in shared memory whose rows are 128 bytes each, their eighths swizzled by the number of the row: bytes to
// the next eight rows. It may begin at any row of a memory that is swizzled from a multiple of 1024 bytes on.
__device__ __forceinline__ wide_word swizzled_at(word address, word along_rows) {
    return static_cast<wide_word>((address & 0x3FFFF) >> 4) | 1ull << 16 |
           static_cast<wide_word>(along_rows >> 4) << 32 | 1ull << 62;
}

// A matrix in shared memory that is not swizzled: bytes to the next core matrix along channels, and along rows.
__device__ __forceinline__ wide_word matrix_at(word address, word along_channels, word along_rows) {
    return static_cast<wide_word>((address & 0x3FFFF) >> 4) | static_cast<wide_word>(along_channels >> 4) << 16 |
           static_cast<wide_word>(along_rows >> 4) << 32;
}

__device__ __forceinline__ word packed(float first, float second) {
    word made;
#if BFLOAT
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(made) : "f"(second), "f"(first));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(made) : "f"(second), "f"(first));
#endif
    return made;
}

__device__ __forceinline__ float as_float(value one) {
#if BFLOAT
    return __uint_as_float(static_cast<word>(one) << 16);
#else
    float made;
    asm("cvt.f32.f16 %0, %1;" : "=f"(made) : "h"(one));
    return made;
#endif
}

// Until all threads of a cluster that have not ended are here; what they wrote to shared memory is seen by all then.
__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

// Until so many threads of this block are here, which are not all.
__device__ __forceinline__ void meet_threads(int threads) {
    asm volatile("bar.sync 15, %0;" ::"r"(threads) : "memory");
}

// What lies at this address in the shared memory of a block of the cluster.
__device__ __forceinline__ float4 of_block(word address, int block) {
    word place;
    float4 made;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(place) : "r"(address), "r"(block));
    asm volatile(
        "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
        : "=f"(made.x), "=f"(made.y), "=f"(made.z), "=f"(made.w) : "r"(place) : "memory"
    );
    return made;
}

__device__ __forceinline__ word of_lane_across(word mine, int bit) { return __shfl_xor_sync(0xFFFFFFFF, mine, bit); }

__device__ __forceinline__ int same_for_warp(int number) { return __shfl_sync(0xFFFFFFFF, number, 0); }
