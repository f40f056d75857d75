/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What driver and device say to each other; docs/virtio-oprofile.md explains it.
 *
 * Generated from the crate oprofile-wire: OPROFILE_WRITE_HEADER=1 cargo test -p oprofile-wire --test c_header
 */
#ifndef OPROFILE_WIRE_H
#define OPROFILE_WIRE_H

#include <linux/build_bug.h>
#include <linux/types.h>

#define OPROFILE_DEFAULT_DEVICE_ID 63u
#define OPROFILE_PROTOCOL_VERSION 1u
#define OPROFILE_MAX_VCPUS 1023u
#define OPROFILE_QUEUE_SIZE 128u

/* Configuration space. */
#define OPROFILE_CONFIG_MAGIC 0x46504f56

#define OPROFILE_CAPABILITY_FLUSH_DOORBELL 0x1
#define OPROFILE_CAPABILITY_BACKTRACE 0x2
#define OPROFILE_CAPABILITY_KERNEL_SYMBOLS 0x4
#define OPROFILE_CAPABILITY_TASK_FREE 0x8
#define OPROFILE_CAPABILITY_CHANGE_WORDS 0x10
#define OPROFILE_CAPABILITY_HOST_NMI 0x20
#define OPROFILE_CAPABILITY_PERF_MAPS 0x40

struct oprofile_config {
	__le32 magic;
	__le32 version;
	__le64 capabilities;
	__le32 vcpus;
	__le32 enable;
	__le64 period_ns;
	__le32 event;
	__le32 backtrace_depth;
	__le32 cpu_buffer_entries;
	__le32 sample_buffer_bytes;
	__le32 flush_doorbell;
	__le32 wanted_maps;
};
static_assert(sizeof(struct oprofile_config) == 56);

#define OPROFILE_CONFIG_FLUSH_DOORBELL 48

/* Requests. */
#define OPROFILE_MAX_REQUEST_BYTES 0x40000
#define OPROFILE_MAX_NAME_BYTES 0x200

#define OPROFILE_KIND_HELLO 0x1
#define OPROFILE_KIND_CPU_STATE 0x2
#define OPROFILE_KIND_MODULES 0x3
#define OPROFILE_KIND_SYMBOLS 0x4
#define OPROFILE_KIND_TASK_FREE 0x5
#define OPROFILE_KIND_QUIESCED 0x6
#define OPROFILE_KIND_HOST_CLOCK 0x7
#define OPROFILE_KIND_WANTED_MAP 0x8
#define OPROFILE_KIND_PERF_MAP 0x9

#define OPROFILE_FLAG_FIRST 0x1
#define OPROFILE_FLAG_LAST 0x2
#define OPROFILE_FLAG_MODULE_COMING 0x4
#define OPROFILE_FLAG_UNREADABLE 0x8

#define OPROFILE_STATUS_OK 0x0

struct oprofile_request_header {
	__le16 kind;
	__le16 version;
	__le32 flags;
	__le32 payload_bytes;
	__le32 reserved;
};
static_assert(sizeof(struct oprofile_request_header) == 16);

struct oprofile_response {
	__le32 status;
	__le32 detail;
	__le64 value;
};
static_assert(sizeof(struct oprofile_response) == 16);

struct oprofile_hello {
	__le64 capabilities;
	__le64 page_table_root;
	__le64 linear_map_base;
	__le64 kernel_start;
	__le64 kernel_end;
	__le64 user_end;
	__le64 init_task;
	__le64 change_words;
	__le16 page_table_levels;
	__le16 cpus;
	__le16 release_bytes;
	__le16 reserved;
	__le32 layout_bytes;
	__le32 clock_events;
};
static_assert(sizeof(struct oprofile_hello) == 80);

struct oprofile_cpu_state {
	__le32 vcpu;
	__le32 online;
};
static_assert(sizeof(struct oprofile_cpu_state) == 8);

struct oprofile_module_entry {
	__le64 base;
	__le64 size;
	__le16 name_bytes;
	u8 reserved[6];
};
static_assert(sizeof(struct oprofile_module_entry) == 24);

struct oprofile_symbols_header {
	__le64 image_base;
	__le32 count;
	__le32 reserved;
};
static_assert(sizeof(struct oprofile_symbols_header) == 16);

struct oprofile_symbol_entry {
	__le64 address;
	__le32 size;
	__le16 reserved;
	__le16 name_bytes;
};
static_assert(sizeof(struct oprofile_symbol_entry) == 16);

struct oprofile_host_clock {
	__le32 vcpu;
	__le32 apic_id;
	__le64 cell;
};
static_assert(sizeof(struct oprofile_host_clock) == 16);

struct oprofile_perf_map {
	__le32 tgid;
	__le32 reserved;
	__le64 offset;
};
static_assert(sizeof(struct oprofile_perf_map) == 16);

/* Clock cells. */
struct oprofile_clock_cell {
	__le32 sent;
	__le32 taken;
	__le32 busy;
	__le32 reserved;
};
static_assert(sizeof(struct oprofile_clock_cell) == 16);

#define OPROFILE_MAX_APIC_ID 254u

/* Layout descriptor. */
#define OPROFILE_LAYOUT_MAGIC 0x4f59414c
#define OPROFILE_LAYOUT_VERSION 0x1

#define OPROFILE_VMA_STORE_LIST 1
#define OPROFILE_VMA_STORE_RB_TREE 2
#define OPROFILE_VMA_STORE_MAPLE 3

#define OPROFILE_FIELD_TASK_MM 1
#define OPROFILE_FIELD_TASK_PID 2
#define OPROFILE_FIELD_TASK_TGID 3
#define OPROFILE_FIELD_TASK_FLAGS 4
#define OPROFILE_FIELD_TASK_COMM 5
#define OPROFILE_FIELD_TASK_FLAG_KERNEL_THREAD 6
#define OPROFILE_FIELD_TASK_FLAG_EXITING 7
#define OPROFILE_FIELD_MM_PAGE_TABLE 16
#define OPROFILE_FIELD_MM_EXE_FILE 17
#define OPROFILE_FIELD_MM_VMA_COUNT 18
#define OPROFILE_FIELD_MM_VMA_LIST 19
#define OPROFILE_FIELD_MM_VMA_ROOT 20
#define OPROFILE_FIELD_MM_MAPLE_TREE 21
#define OPROFILE_FIELD_MM_SEQUENCE 22
#define OPROFILE_FIELD_MM_GENERATION 23
#define OPROFILE_FIELD_VMA_START 32
#define OPROFILE_FIELD_VMA_END 33
#define OPROFILE_FIELD_VMA_FLAGS 34
#define OPROFILE_FIELD_VMA_PAGE_OFFSET 35
#define OPROFILE_FIELD_VMA_FILE 36
#define OPROFILE_FIELD_VMA_MM 37
#define OPROFILE_FIELD_VMA_NEXT 38
#define OPROFILE_FIELD_VMA_RB 39
#define OPROFILE_FIELD_VMA_FLAG_EXEC 40
#define OPROFILE_FIELD_PAGE_SHIFT 41
#define OPROFILE_FIELD_RB_RIGHT 42
#define OPROFILE_FIELD_RB_LEFT 43
#define OPROFILE_FIELD_MAPLE_ROOT 48
#define OPROFILE_FIELD_MAPLE_FLAGS 49
#define OPROFILE_FIELD_MAPLE_RANGE_PIVOTS 50
#define OPROFILE_FIELD_MAPLE_RANGE_SLOTS 51
#define OPROFILE_FIELD_MAPLE_ARANGE_PIVOTS 52
#define OPROFILE_FIELD_MAPLE_ARANGE_SLOTS 53
#define OPROFILE_FIELD_MAPLE_DENSE_SLOTS 54
#define OPROFILE_FIELD_FILE_MOUNT 64
#define OPROFILE_FIELD_FILE_DENTRY 65
#define OPROFILE_FIELD_FILE_INODE 66
#define OPROFILE_FIELD_FILE_MODE 67
#define OPROFILE_FIELD_FILE_MODE_BACKING 68
#define OPROFILE_FIELD_FILE_BACKING_MOUNT 69
#define OPROFILE_FIELD_FILE_BACKING_DENTRY 70
#define OPROFILE_FIELD_DENTRY_PARENT 80
#define OPROFILE_FIELD_DENTRY_NAME 81
#define OPROFILE_FIELD_DENTRY_NAME_LENGTH 82
#define OPROFILE_FIELD_DENTRY_INODE 83
#define OPROFILE_FIELD_DENTRY_HASH_LINK 84
#define OPROFILE_FIELD_DENTRY_SEQUENCE 85
#define OPROFILE_FIELD_MOUNT_PARENT 96
#define OPROFILE_FIELD_MOUNT_POINT 97
#define OPROFILE_FIELD_MOUNT_VISIBLE 98
#define OPROFILE_FIELD_VFS_MOUNT_ROOT 99
#define OPROFILE_FIELD_INODE_NUMBER 112
#define OPROFILE_FIELD_INODE_GENERATION 113
#define OPROFILE_FIELD_INODE_SUPER_BLOCK 114
#define OPROFILE_FIELD_SUPER_BLOCK_DEVICE 115

struct oprofile_descriptor_header {
	__le32 magic;
	__le16 version;
	__le16 vma_store;
	__le16 count;
	__le16 reserved;
};
static_assert(sizeof(struct oprofile_descriptor_header) == 12);

struct oprofile_layout_entry {
	__le16 field;
	__le16 size;
	__le32 offset;
};
static_assert(sizeof(struct oprofile_layout_entry) == 8);

/* Sample buffers. */
#define OPROFILE_SAMPLE_MAGIC 0x504d4153

#define OPROFILE_MIN_BUFFER_BYTES 0x100
#define OPROFILE_MAX_BUFFER_BYTES 0x100000

#define OPROFILE_ESCAPE 0xffffffffffffffffull
#define OPROFILE_ENTRY_BYTES 16

#define OPROFILE_NOTE_KERNEL_CTX_SWITCH 0x1
#define OPROFILE_NOTE_IS_KERNEL 0x2
#define OPROFILE_NOTE_TRACE_BEGIN 0x4
#define OPROFILE_NOTE_USER_CTX_SWITCH 0x8
#define OPROFILE_NOTE_SPACE_CHANGES 0x10
#define OPROFILE_NOTE_SPACE_RELEASED 0x20

struct oprofile_buffer_header {
	__le32 magic;
	__le16 version;
	__le16 header_bytes;
	__le32 vcpu;
	__le32 entry_bytes;
	__le64 sequence;
	__le64 clock_ns;
	__le64 received;
	__le64 lost;
	__le64 aborted;
	__le64 invalid;
	__le32 samples;
	__le32 reserved;
};
static_assert(sizeof(struct oprofile_buffer_header) == 72);

#endif
