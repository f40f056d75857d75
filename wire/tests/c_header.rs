//! The Linux driver's header states the same as this crate.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use oprofile_wire::clock::{self, ClockCell};
use oprofile_wire::config::{self, ConfigSpace, capability};
use oprofile_wire::control::{
    self, CpuState, Hello, HostClock, ModuleEntry, PerfMap, RequestHeader, Response, SymbolEntry,
    SymbolsHeader, flag, kind, status,
};
use oprofile_wire::layout::{self, DescriptorHeader, Field, LayoutEntry, VmaStore};
use oprofile_wire::sample::{self, BufferHeader, note};

/// A member's declaration: little endian where it has more than a byte.
fn declaration(name: &str, bytes: usize) -> String {
    match bytes {
        2 => format!("__le16 {name};"),
        4 => format!("__le32 {name};"),
        8 => format!("__le64 {name};"),
        _ => format!("u8 {name}[{bytes}];"),
    }
}

fn size_of_member<T: zerocopy::FromZeros>(size: impl Fn(&T) -> usize) -> usize {
    size(&T::new_zeroed())
}

/// A structure with its members in their order, each right behind the one before.
macro_rules! structure {
    ($text:ident, $rust:ident, $c:literal, $($member:ident),+) => {{
        writeln!($text, "struct {} {{", $c).unwrap();
        let mut end = 0;
        $(
            assert_eq!(std::mem::offset_of!($rust, $member), end, stringify!($member));
            let bytes = size_of_member(|it: &$rust| size_of_val(&it.$member));
            writeln!($text, "\t{}", declaration(stringify!($member), bytes)).unwrap();
            end += bytes;
        )+
        assert_eq!(end, size_of::<$rust>(), "a member of {} is missing", $c);
        writeln!($text, "}};\nstatic_assert(sizeof(struct {}) == {end});\n", $c).unwrap();
    }};
}

macro_rules! constants {
    ($text:ident, $prefix:literal, $module:ident, $($name:ident),+) => {
        $(
            let (prefix, name, value) = ($prefix, stringify!($name), $module::$name);
            writeln!($text, "#define OPROFILE_{prefix}{name} {value:#x}").unwrap();
        )+
        writeln!($text).unwrap();
    };
}

/// `TaskMm` as `TASK_MM`.
fn upper_snake(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}

const HEAD: &str = "/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What driver and device say to each other; docs/virtio-oprofile.md explains it.
 *
 * Generated from the crate oprofile-wire: OPROFILE_WRITE_HEADER=1 cargo test -p oprofile-wire --test c_header
 */
#ifndef OPROFILE_WIRE_H
#define OPROFILE_WIRE_H

#include <linux/build_bug.h>
#include <linux/types.h>
";

fn general(text: &mut String) {
    writeln!(text).unwrap();
    for (name, value) in [
        ("DEFAULT_DEVICE_ID", oprofile_wire::DEFAULT_DEVICE_ID),
        ("PROTOCOL_VERSION", oprofile_wire::PROTOCOL_VERSION.into()),
        ("MAX_VCPUS", oprofile_wire::MAX_VCPUS.into()),
        ("QUEUE_SIZE", oprofile_wire::QUEUE_SIZE.into()),
    ] {
        writeln!(text, "#define OPROFILE_{name} {value}u").unwrap();
    }
    writeln!(text).unwrap();
}

fn configuration(text: &mut String) {
    writeln!(text, "/* Configuration space. */").unwrap();
    constants!(text, "CONFIG_", config, MAGIC);
    #[rustfmt::skip]
    constants!(text, "CAPABILITY_", capability,
        FLUSH_DOORBELL, BACKTRACE, KERNEL_SYMBOLS, TASK_FREE, CHANGE_WORDS, HOST_NMI, PERF_MAPS);
    #[rustfmt::skip]
    structure!(text, ConfigSpace, "oprofile_config",
        magic, version, capabilities, vcpus, enable, period_ns, event, backtrace_depth,
        cpu_buffer_entries, sample_buffer_bytes, flush_doorbell, wanted_maps);
    let doorbell = config::FLUSH_DOORBELL_OFFSET;
    writeln!(text, "#define OPROFILE_CONFIG_FLUSH_DOORBELL {doorbell}\n").unwrap();
}

fn requests(text: &mut String) {
    writeln!(text, "/* Requests. */").unwrap();
    constants!(text, "", control, MAX_REQUEST_BYTES, MAX_NAME_BYTES);
    #[rustfmt::skip]
    constants!(text, "KIND_", kind,
        HELLO, CPU_STATE, MODULES, SYMBOLS, TASK_FREE, QUIESCED, HOST_CLOCK, WANTED_MAP, PERF_MAP);
    constants!(text, "FLAG_", flag, FIRST, LAST, MODULE_COMING, UNREADABLE);
    constants!(text, "STATUS_", status, OK);
    #[rustfmt::skip]
    structure!(text, RequestHeader, "oprofile_request_header",
        kind, version, flags, payload_bytes, reserved);
    structure!(text, Response, "oprofile_response", status, detail, value);
    #[rustfmt::skip]
    structure!(text, Hello, "oprofile_hello",
        capabilities, page_table_root, linear_map_base, kernel_start, kernel_end, user_end,
        init_task, change_words, page_table_levels, cpus, release_bytes, reserved, layout_bytes,
        clock_events);
    structure!(text, CpuState, "oprofile_cpu_state", vcpu, online);
    #[rustfmt::skip]
    structure!(text, ModuleEntry, "oprofile_module_entry", base, size, name_bytes, reserved);
    #[rustfmt::skip]
    structure!(text, SymbolsHeader, "oprofile_symbols_header", image_base, count, reserved);
    #[rustfmt::skip]
    structure!(text, SymbolEntry, "oprofile_symbol_entry", address, size, reserved, name_bytes);
    structure!(text, HostClock, "oprofile_host_clock", vcpu, apic_id, cell);
    structure!(text, PerfMap, "oprofile_perf_map", tgid, reserved, offset);
}

fn host_clock(text: &mut String) {
    writeln!(text, "/* Clock cells. */").unwrap();
    structure!(
        text,
        ClockCell,
        "oprofile_clock_cell",
        sent,
        taken,
        busy,
        reserved
    );
    let highest = clock::MAX_APIC_ID;
    writeln!(text, "#define OPROFILE_MAX_APIC_ID {highest}u\n").unwrap();
}

fn descriptor(text: &mut String) {
    writeln!(text, "/* Layout descriptor. */").unwrap();
    constants!(text, "LAYOUT_", layout, MAGIC, VERSION);
    for (name, store) in [
        ("LIST", VmaStore::List),
        ("RB_TREE", VmaStore::RbTree),
        ("MAPLE", VmaStore::Maple),
    ] {
        writeln!(text, "#define OPROFILE_VMA_STORE_{name} {}", store as u16).unwrap();
    }
    writeln!(text).unwrap();
    for field in Field::ALL {
        let name = upper_snake(&format!("{field:?}"));
        writeln!(text, "#define OPROFILE_FIELD_{name} {}", *field as u16).unwrap();
    }
    writeln!(text).unwrap();
    #[rustfmt::skip]
    structure!(text, DescriptorHeader, "oprofile_descriptor_header",
        magic, version, vma_store, count, reserved);
    structure!(
        text,
        LayoutEntry,
        "oprofile_layout_entry",
        field,
        size,
        offset
    );
}

fn samples(text: &mut String) {
    writeln!(text, "/* Sample buffers. */").unwrap();
    constants!(text, "SAMPLE_", sample, MAGIC);
    constants!(text, "", sample, MIN_BUFFER_BYTES, MAX_BUFFER_BYTES);
    writeln!(text, "#define OPROFILE_ESCAPE {:#x}ull", sample::ESCAPE).unwrap();
    let entry = sample::ENTRY_WORDS * sample::WORD_BYTES;
    writeln!(text, "#define OPROFILE_ENTRY_BYTES {entry}\n").unwrap();
    #[rustfmt::skip]
    constants!(text, "NOTE_", note,
        KERNEL_CTX_SWITCH, IS_KERNEL, TRACE_BEGIN, USER_CTX_SWITCH, SPACE_CHANGES, SPACE_RELEASED);
    #[rustfmt::skip]
    structure!(text, BufferHeader, "oprofile_buffer_header",
        magic, version, header_bytes, vcpu, entry_bytes, sequence, clock_ns, received, lost,
        aborted, invalid, samples, reserved);
}

fn header() -> String {
    let mut text = HEAD.to_owned();
    for part in [
        general,
        configuration,
        requests,
        host_clock,
        descriptor,
        samples,
    ] {
        part(&mut text);
    }
    text.push_str("#endif\n");
    text
}

#[test]
fn header_of_the_linux_driver_is_this_crates() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-agent/linux/oprofile_wire.h");
    let expected = header();
    if std::env::var_os("OPROFILE_WRITE_HEADER").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let path = path.display();
    assert!(
        found == expected,
        "{path} is out of date; write it anew with OPROFILE_WRITE_HEADER=1"
    );
}
