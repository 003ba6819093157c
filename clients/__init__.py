"""What runs at a site: the ClientApp and what it keeps on the site's own disk."""
