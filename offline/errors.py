"""Everything that can go wrong offline. Each message says what, where (file:line or field path) and what to do.

OfflineError
├── RecipeError        a recipe has an unknown key, a wrong type or a value that does not fit
├── DataError          a data folder or one of its lines is not what it should be
├── BackboneError      a backbone cannot be found, or its weights are not those expected
├── DimensionError     two towers, or a tower and the vectors, have different widths
├── TrainingError      training cannot go on (no pairs, all negatives false, non-finite loss, no memory, a dead process)
├── ParentError        a snapshot cannot be the parent of a new one
├── EncodingError      the document tower gives vectors that cannot be searched
├── WorkerError        another machine or process that encodes cannot be reached, or dies
├── ParityError        the exported graph does not compute what the torch tower does
├── StageError         a stage is run before the stage whose output it needs, or its output is damaged
├── PlanError          a plan is asked for with numbers that cannot be, or its figures cannot be read
├── StorageError       the disk is full or not writable
├── MilvusError        a Milvus server does not answer, refuses, or lacks a collection
└── ServiceError       a running service that is measured does not answer as it should
"""

from __future__ import annotations


class OfflineError(Exception):
    """Root of the tree."""


class RecipeError(OfflineError):
    """A recipe has an unknown key, a wrong type or a value that does not fit."""


class DataError(OfflineError):
    """A data folder or one of its lines is not what it should be."""


class BackboneError(OfflineError):
    """A backbone cannot be found, or its weights are not those expected."""


class DimensionError(OfflineError):
    """Two towers, or a tower and the vectors, have different widths."""


class TrainingError(OfflineError):
    """Training cannot go on."""


class ParentError(OfflineError):
    """A snapshot cannot be the parent of a new one."""


class EncodingError(OfflineError):
    """The document tower gives vectors that cannot be searched."""


class WorkerError(OfflineError):
    """Another machine or process that encodes cannot be reached, or dies."""


class ParityError(OfflineError):
    """The exported graph does not compute what the torch tower does."""


class StageError(OfflineError):
    """A stage lacks the output of an earlier one, or that output is damaged."""


class PlanError(OfflineError):
    """A plan is asked for with numbers that cannot be, or its figures cannot be read."""


class StorageError(OfflineError):
    """The disk is full or not writable."""


class MilvusError(OfflineError):
    """A Milvus server does not answer, refuses, or lacks a collection."""


class ServiceError(OfflineError):
    """A running service that is measured does not answer as it should."""
