// SPDX-License-Identifier: GPL-2.0-only
/* Names of the kernel's and modules' functions, for the host's reports. */

#include <linux/kallsyms.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "virtio_oprofile.h"

/* More than the code of any kernel: bounds the walk over the image. */
#define MAX_IMAGE_BYTES (256ull << 20)

struct symbol {
	u64 start, size;
	char name[KSYM_SYMBOL_LEN];
};

/* The symbol that covers an address of the kernel's image: "NAME+0xOFFSET/0xSIZE". */
static bool image_symbol(u64 address, struct symbol *symbol)
{
	u64 offset, size;
	char *plus;

	sprint_symbol(symbol->name, address);
	/* A module's has its module in brackets; no symbol is a bare number. */
	if (strchr(symbol->name, '['))
		return false;
	plus = strrchr(symbol->name, '+');
	if (!plus || sscanf(plus, "+0x%llx/0x%llx", &offset, &size) != 2 || !size)
		return false;
	*plus = '\0';
	symbol->start = address - offset;
	symbol->size = size;
	return offset < size;
}

/* Kernel code ends where these begin (include/asm-generic/vmlinux.lds.h). */
static bool is_behind_code(const struct symbol *symbol)
{
	return !strcmp(symbol->name, "_etext") || !strcmp(symbol->name, "__start_rodata") ||
	       !strcmp(symbol->name, "_sdata");
}

/* Any function of the image. */
static u64 inside_image(void)
{
	return (u64)&_printk;
}

void symbols_image_range(u64 *start, u64 *end)
{
	/* The image stays where it is, and a walk over it takes a while. Probes come one at a time. */
	static u64 known_start, known_end;
	struct symbol *symbol;
	u64 address = inside_image();

	*start = *end = address;
	if (known_end) {
		*start = known_start;
		*end = known_end;
		return;
	}
	symbol = kmalloc(sizeof(*symbol), GFP_KERNEL);
	if (!symbol)
		return;
	while (image_symbol(*start - 1, symbol) && inside_image() - symbol->start < MAX_IMAGE_BYTES)
		*start = symbol->start;
	while (image_symbol(address, symbol) && !is_behind_code(symbol) &&
	       address - inside_image() < MAX_IMAGE_BYTES) {
		address = symbol->start + symbol->size;
		*end = address;
		cond_resched();
	}
	kfree(symbol);
	known_start = *start;
	known_end = *end;
}

/* A list that is sent in as many requests as it takes. */
struct report {
	struct oprofile_device *dev;
	u16 kind;
	u32 flags;
	/* Symbols: the image. */
	u64 base;
	bool symbols;
	u32 count;
	bool first;
	int error;
};

static void report_open(struct report *report)
{
	struct oprofile_symbols_header header = { .image_base = cpu_to_le64(report->base) };

	request_start(report->dev);
	report->count = 0;
	/* The count is filled in when the part is sent. */
	if (report->symbols)
		request_push(report->dev, &header, sizeof(header));
}

static void report_send(struct report *report, u32 last)
{
	u32 flags = report->flags | last | (report->first ? OPROFILE_FLAG_FIRST : 0);

	if (report->symbols) {
		struct oprofile_symbols_header *header =
			(void *)(report->dev->request + sizeof(struct oprofile_request_header));

		header->count = cpu_to_le32(report->count);
	}
	if (!report->error)
		report->error = request_submit(report->dev, report->kind, flags);
	report->first = false;
}

static bool push_named(struct oprofile_device *dev, const void *entry, u32 length, const char *name,
		       u32 name_length)
{
	u32 used = dev->request_used;

	if (request_push(dev, entry, length) && request_push(dev, name, name_length))
		return true;
	dev->request_used = used;
	return false;
}

static void report_add(struct report *report, const void *entry, u32 length, const char *name,
		     u32 name_length)
{
	if (report->error)
		return;
	if (!push_named(report->dev, entry, length, name, name_length)) {
		report_send(report, 0);
		report_open(report);
		push_named(report->dev, entry, length, name, name_length);
	}
	report->count++;
}

static u32 name_length(const char *name)
{
	return strnlen(name, OPROFILE_MAX_NAME_BYTES);
}

static void add_symbol(struct report *report, u64 address, u64 size, const char *name)
{
	struct oprofile_symbol_entry entry = {
		.address = cpu_to_le64(address),
		.size = cpu_to_le32(min_t(u64, size, U32_MAX)),
		.name_bytes = cpu_to_le16(name_length(name)),
	};

	report_add(report, &entry, sizeof(entry), name, name_length(name));
}

int symbols_send_kernel(struct oprofile_device *dev)
{
	struct report report = { .dev = dev, .kind = OPROFILE_KIND_SYMBOLS, .symbols = true, .first = true };
	struct symbol *symbol = kmalloc(sizeof(*symbol), GFP_KERNEL);
	u64 address, end;

	if (!symbol)
		return -ENOMEM;
	symbols_image_range(&address, &end);
	report_open(&report);
	while (address < end && image_symbol(address, symbol) && !report.error) {
		add_symbol(&report, symbol->start, symbol->size, symbol->name);
		address = symbol->start + symbol->size;
		cond_resched();
	}
	report_send(&report, OPROFILE_FLAG_LAST);
	kfree(symbol);
	return report.error;
}

static void module_text(const struct module *module, u64 *base, u64 *size)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	*base = (u64)module->mem[MOD_TEXT].base;
	*size = module->mem[MOD_TEXT].size;
#else
	*base = (u64)module->core_layout.base;
	*size = module->core_layout.text_size;
#endif
}

/* What is sent of a module; a copy, because nothing that waits may be done while the list is looked at. */
struct module_copy {
	u64 base, size;
	char name[MODULE_NAME_LEN];
};

/* More modules than a machine has; bounds the walk. */
#define MAX_MODULES 1024u

/*
 * The list of modules is not exported, but this one hangs on it. Its head lies in the kernel's image; all else lies where
 * modules are loaded.
 */
static bool is_module(const struct list_head *link)
{
	return (u64)link >= MODULES_VADDR && (u64)link < MODULES_END;
}

static u32 copy_modules(struct module_copy *copies, const struct module *going)
{
	const struct list_head *link;
	u32 count = 0, seen;

	rcu_read_lock_sched();
	link = &THIS_MODULE->list;
	for (seen = 0; seen < 2 * MAX_MODULES && count < MAX_MODULES; seen++) {
		const struct module *module = list_entry(link, struct module, list);

		if (is_module(link) && module != going && module->state != MODULE_STATE_UNFORMED) {
			struct module_copy *copy = &copies[count];

			module_text(module, &copy->base, &copy->size);
			strscpy(copy->name, module->name, sizeof(copy->name));
			if (copy->size)
				count++;
		}
		link = rcu_dereference_sched(link->next);
		if (link == &THIS_MODULE->list)
			break;
	}
	rcu_read_unlock_sched();
	return count;
}

static int send_list(struct oprofile_device *dev, const struct module_copy *copies, u32 count,
		     u32 flags)
{
	struct report report = { .dev = dev,
			     .kind = OPROFILE_KIND_MODULES,
			     .flags = flags,
			     .first = true };
	u32 i;

	report_open(&report);
	for (i = 0; i < count; i++) {
		const struct module_copy *copy = &copies[i];
		struct oprofile_module_entry entry = {
			.base = cpu_to_le64(copy->base),
			.size = cpu_to_le64(copy->size),
			.name_bytes = cpu_to_le16(name_length(copy->name)),
		};

		report_add(&report, &entry, sizeof(entry), copy->name, name_length(copy->name));
	}
	report_send(&report, OPROFILE_FLAG_LAST);
	return report.error;
}

int symbols_send_modules(struct oprofile_device *dev, const struct module *coming,
			 const struct module *going)
{
	struct module_copy *copies = kvmalloc_array(MAX_MODULES, sizeof(*copies), GFP_KERNEL);
	int error;

	if (!copies)
		return -ENOMEM;
	error = send_list(dev, copies, copy_modules(copies, going),
			  coming ? OPROFILE_FLAG_MODULE_COMING : 0);
	kvfree(copies);
	return error;
}

/* Functions of one module, all of them copied while it cannot go. */
struct function_copy {
	u64 address, size;
	u32 name;
};

struct functions {
	struct function_copy *list;
	u32 count, room;
	char *names;
	u32 names_used, names_room;
};

static void copy_functions(const struct module *module, struct functions *copy)
{
#ifdef CONFIG_KALLSYMS
	const struct mod_kallsyms *table = rcu_dereference_sched(module->kallsyms);
	u64 base, size;
	u32 i;

	module_text(module, &base, &size);
	for (i = 1; table && i < table->num_symtab && copy->count < copy->room; i++) {
		const Elf_Sym *symbol = &table->symtab[i];
		const char *name = table->strtab + symbol->st_name;
		u32 length = name_length(name) + 1;

		if (symbol->st_shndx == SHN_UNDEF || symbol->st_value < base ||
		    symbol->st_value >= base + size || length == 1 ||
		    length > copy->names_room - copy->names_used)
			continue;
		memcpy(copy->names + copy->names_used, name, length - 1);
		copy->names[copy->names_used + length - 1] = '\0';
		copy->list[copy->count++] = (struct function_copy){
			.address = symbol->st_value,
			.size = symbol->st_size,
			.name = copy->names_used,
		};
		copy->names_used += length;
	}
#endif
}

/* Most functions of one module, and bytes of their names: several times what the largest have. */
#define MAX_FUNCTIONS 32768u
#define MAX_NAMES (2u << 20)

static int send_functions(struct oprofile_device *dev, u64 base, const struct functions *functions)
{
	struct report report = { .dev = dev,
			     .kind = OPROFILE_KIND_SYMBOLS,
			     .symbols = true,
			     .base = base,
			     .first = true };
	u32 i;

	report_open(&report);
	for (i = 0; i < functions->count; i++) {
		const struct function_copy *function = &functions->list[i];

		add_symbol(&report, function->address, function->size,
			   functions->names + function->name);
	}
	report_send(&report, OPROFILE_FLAG_LAST);
	return report.error;
}

/* Sends the functions of the module at `base`, if it is still there. */
static int send_module(struct oprofile_device *dev, u64 base, struct functions *functions)
{
	const struct list_head *link;
	u32 seen;

	functions->count = functions->names_used = 0;
	rcu_read_lock_sched();
	link = &THIS_MODULE->list;
	for (seen = 0; seen < 2 * MAX_MODULES; seen++) {
		const struct module *module = list_entry(link, struct module, list);
		u64 found, size;

		if (is_module(link) && module->state != MODULE_STATE_UNFORMED) {
			module_text(module, &found, &size);
			if (found == base) {
				copy_functions(module, functions);
				break;
			}
		}
		link = rcu_dereference_sched(link->next);
		if (link == &THIS_MODULE->list)
			break;
	}
	rcu_read_unlock_sched();
	return functions->count ? send_functions(dev, base, functions) : 0;
}

static int send_functions_of(struct oprofile_device *dev, const struct module_copy *copies, u32 count)
{
	struct functions functions = { .room = MAX_FUNCTIONS, .names_room = MAX_NAMES };
	int error = 0;
	u32 i;

	functions.list = kvmalloc_array(MAX_FUNCTIONS, sizeof(*functions.list), GFP_KERNEL);
	functions.names = kvmalloc(MAX_NAMES, GFP_KERNEL);
	if (!functions.list || !functions.names)
		error = -ENOMEM;
	for (i = 0; i < count && !error; i++)
		error = send_module(dev, copies[i].base, &functions);
	kvfree(functions.names);
	kvfree(functions.list);
	return error;
}

int symbols_send_module(struct oprofile_device *dev, const struct module *module)
{
	struct module_copy copy = {};

	module_text(module, &copy.base, &copy.size);
	return send_functions_of(dev, &copy, 1);
}

int symbols_send_all_modules(struct oprofile_device *dev)
{
	struct module_copy *copies = kvmalloc_array(MAX_MODULES, sizeof(*copies), GFP_KERNEL);
	u32 count;
	int error;

	if (!copies)
		return -ENOMEM;
	/* One that comes meanwhile is not on the list, and the device refuses functions of what is not. */
	count = copy_modules(copies, NULL);
	error = send_list(dev, copies, count, 0);
	if (!error && dev->capabilities & OPROFILE_CAPABILITY_KERNEL_SYMBOLS)
		error = send_functions_of(dev, copies, count);
	kvfree(copies);
	return error;
}
