"""What every report has: records, tables, a page, a folder."""
