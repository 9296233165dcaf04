/* The CUDA, NCCL and MPI calls whose results MindSpore looks at while it compiles; stub.py adds every other one as a
 * function that returns 0, success. Nothing here computes: memory is the host's, and messages go nowhere.
 *
 * Which of how many workers this process is: STUB_RANK, STUB_WORKERS. Each compiles alone, so none waits for another. */
#include <stdlib.h>
#include <string.h>

#define DEVICES 64
#define MEMORY (64ul << 30)

/* CUDA runtime and driver */

struct cudaDeviceProp {
    char name[256], uuid[16], luid[8];
    unsigned int node_mask;
    size_t memory, shared_per_block;
    int registers_per_block, warp_size;
    size_t pitch;
    int max_threads, max_block[3], max_grid[3], clock_rate;
    size_t constants;
    int major, minor;
};

int cudaGetDeviceCount(int *count) { *count = DEVICES; return 0; }

int cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    memset(properties, 0, sizeof *properties);
    strcpy(properties->name, "stub");
    properties->memory = MEMORY;
    properties->major = 8;
    return 0;
}

int cudaMemGetInfo(size_t *unused, size_t *total) { *unused = *total = MEMORY; return 0; }
int cudaMalloc(void **memory, size_t size) { *memory = malloc(size); return *memory == NULL; }
int cudaHostAlloc(void **memory, size_t size, unsigned flags) { return cudaMalloc(memory, size); }
int cudaFree(void *memory) { free(memory); return 0; }
int cudaFreeHost(void *memory) { free(memory); return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { memcpy(to, from, size); return 0; }
const char *cudaGetErrorName(int error) { return "stub"; }
const char *cudaGetErrorString(int error) { return "stub"; }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : 0; /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR */
    return 0;
}

size_t cudnnGetVersion(void) { return 8500; }

/* NCCL */

typedef struct { char bytes[128]; } ncclUniqueId;
int ncclCommInitRank(void **comm, int size, ncclUniqueId id, int rank) { return cudaMalloc(comm, 64); }

/* MPI. A communicator and its group are the same thing here: its size, this worker's place, and all members. */

typedef struct members { int size, rank, world[DEVICES]; } members;
char ompi_mpi_comm_world[1024], ompi_mpi_comm_null[1024];

static members *everyone(void) {
    static members all;
    if (!all.size) {
        all.size = atoi(getenv("STUB_WORKERS"));
        all.rank = atoi(getenv("STUB_RANK"));
        for (int i = 0; i < all.size; i++) all.world[i] = i;
    }
    return &all;
}

static members *of(void *comm) { return comm == (void *)ompi_mpi_comm_world ? everyone() : comm; }

int MPI_Initialized(int *yes) { *yes = 1; return 0; }
int MPI_Finalized(int *yes) { *yes = 0; return 0; }
int MPI_Comm_size(void *comm, int *size) { *size = of(comm)->size; return 0; }
int MPI_Comm_rank(void *comm, int *rank) { *rank = of(comm)->rank; return 0; }
int MPI_Comm_group(void *comm, members **group) { *group = of(comm); return 0; }

int MPI_Group_incl(members *group, int size, const int *ranks, members **part) {
    *part = calloc(1, sizeof **part);
    (*part)->size = size;
    (*part)->rank = -1;
    for (int i = 0; i < size; i++) {
        (*part)->world[i] = group->world[ranks[i]];
        if ((*part)->world[i] == everyone()->rank) (*part)->rank = i;
    }
    return 0;
}

int MPI_Comm_create_group(void *comm, members *group, int tag, void **created) {
    *created = group->rank < 0 ? (void *)ompi_mpi_comm_null : group;
    return 0;
}

/* What the others would have sent is what this worker sends: the same host name from all of them. The only element
 * sizes that MindSpore sends while it starts are one byte and, for the hashes of host names, eight. */
extern char ompi_mpi_byte[], ompi_mpi_unsigned_char[];

int MPI_Allgather(const void *from, int count, void *type, void *to, int to_count, void *to_type, void *comm) {
    size_t bytes = (size_t)count * (type == (void *)ompi_mpi_byte || type == (void *)ompi_mpi_unsigned_char ? 1 : 8);
    for (int i = 0; i < of(comm)->size; i++)
        if (from != (void *)1) memcpy((char *)to + i * bytes, from, bytes);
        else memmove((char *)to + i * bytes, (char *)to + of(comm)->rank * bytes, bytes); /* MPI_IN_PLACE */
    return 0;
}
