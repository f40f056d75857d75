// SPDX-License-Identifier: GPL-2.0-only
/*
 * Offsets in structures whose definition is private to the kernel, from its own type information (BTF,
 * Documentation/bpf/btf.rst).
 */

#include <linux/btf.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/vmalloc.h>

#include "virtio_oprofile.h"

#define BTF_FILE "/sys/kernel/btf/vmlinux"
/* Debian's is 4 to 6 MB. */
#define MAX_BTF_BYTES (64u << 20)

struct btf_view {
	const u8 *types, *types_end;
	const char *strings;
	u32 strings_length;
};

static void *read_file(const char *path, size_t *size)
{
	struct file *file = filp_open(path, O_RDONLY, 0);
	void *data = NULL;
	loff_t length, position = 0;
	ssize_t got;

	if (IS_ERR(file))
		return ERR_CAST(file);
	length = i_size_read(file_inode(file));
	if (length <= 0 || length > MAX_BTF_BYTES) {
		data = ERR_PTR(-EFBIG);
		goto out;
	}
	data = vmalloc(length);
	if (!data) {
		data = ERR_PTR(-ENOMEM);
		goto out;
	}
	while (position < length) {
		got = kernel_read(file, data + position, length - position, &position);
		if (got <= 0) {
			vfree(data);
			data = ERR_PTR(got ? got : -EIO);
			goto out;
		}
	}
	*size = length;
out:
	filp_close(file, NULL);
	return data;
}

static int open_view(const void *data, size_t size, struct btf_view *view)
{
	const struct btf_header *header = data;
	u64 base, types, strings;

	if (size < sizeof(*header) || header->magic != BTF_MAGIC || header->hdr_len > size)
		return -EINVAL;
	base = header->hdr_len;
	types = base + header->type_off;
	strings = base + header->str_off;
	if (types + header->type_len > size || strings + header->str_len > size || !header->str_len)
		return -EINVAL;
	view->types = data + types;
	view->types_end = view->types + header->type_len;
	view->strings = data + strings;
	view->strings_length = header->str_len;
	return view->strings[view->strings_length - 1] ? -EINVAL : 0;
}

static bool is_named(const struct btf_view *view, u32 offset, const char *name)
{
	return offset < view->strings_length && !strcmp(view->strings + offset, name);
}

/* Bytes behind a type's fixed part. */
static long extra_bytes(const struct btf_type *type)
{
	u32 count = btf_type_vlen(type);

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return 4;
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return count * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return count * sizeof(struct btf_enum);
	case BTF_KIND_ENUM64:
		return count * sizeof(struct btf_enum64);
	case BTF_KIND_FUNC_PROTO:
		return count * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return count * sizeof(struct btf_var_secinfo);
	case BTF_KIND_PTR:
	case BTF_KIND_FWD:
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_CONST:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_FUNC:
	case BTF_KIND_FLOAT:
	case BTF_KIND_TYPE_TAG:
		return 0;
	default:
		return -EINVAL;
	}
}

/* Fills in the offsets of a structure's members; whether it has them all. */
static bool has_members(const struct btf_view *view, const struct btf_type *type,
			const char *const *members, u32 *offsets, u32 count)
{
	const struct btf_member *member = (const void *)(type + 1);
	bool bitfields = BTF_INFO_KFLAG(type->info);
	u32 found = 0, i, m;

	for (i = 0; i < btf_type_vlen(type); i++, member++) {
		u32 bits = bitfields ? BTF_MEMBER_BIT_OFFSET(member->offset) : member->offset;

		for (m = 0; m < count; m++) {
			if (!is_named(view, member->name_off, members[m]) || bits % 8)
				continue;
			offsets[m] = bits / 8;
			found++;
		}
	}
	return found == count;
}

int btf_offsets(const char *structure, const char *const *members, u32 *offsets, u32 count)
{
	struct btf_view view;
	const u8 *at;
	size_t size;
	void *data = read_file(BTF_FILE, &size);
	int result;

	if (IS_ERR(data)) {
		pr_err(DRIVER_NAME ": cannot read " BTF_FILE ": error %ld; mount sysfs at /sys\n",
		       PTR_ERR(data));
		return PTR_ERR(data);
	}
	result = open_view(data, size, &view);
	if (result)
		goto out;
	result = -ENOENT;
	for (at = view.types; view.types_end - at >= sizeof(struct btf_type);) {
		const struct btf_type *type = (const void *)at;
		long extra = extra_bytes(type);

		if (extra < 0 || extra > view.types_end - at - (long)sizeof(*type)) {
			result = -EINVAL;
			break;
		}
		if (BTF_INFO_KIND(type->info) == BTF_KIND_STRUCT &&
		    is_named(&view, type->name_off, structure) &&
		    has_members(&view, type, members, offsets, count)) {
			result = 0;
			break;
		}
		at += sizeof(*type) + extra;
	}
out:
	vfree(data);
	return result;
}
